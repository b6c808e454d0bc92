"""Times in RQ's hashes. A test holds them against RQ's own, which brings all of RQ along."""

from datetime import UTC, datetime

_FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"
_OLD_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def now() -> str:
    """The time of this host, as RQ writes it."""
    return datetime.now(UTC).strftime(_FORMAT)


def parse(text: str) -> datetime:
    """A time that RQ wrote.  Raises ValueError for what is none."""
    try:
        parsed = datetime.strptime(text, _FORMAT)
    except ValueError:
        parsed = datetime.strptime(text, _OLD_FORMAT)
    return parsed.replace(tzinfo=UTC)
