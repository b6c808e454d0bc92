"""What a storm is to do."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What to do to whom."""

    jobs: int = 200
    workers: int = 3
    kills: int = 60
    """Of workers and engines."""
    server_kills: int = 10
    """It is back within seconds."""
    outages: int = 4
    """Of 8 to 15 s, with all workers alive."""
    preemptions: int = 100
    """Jobs that make way for others, at least so often; 0: none does."""
    apart: float = 0.25
    """Of the workers: their share whose processes the others do not see, as if they were on other hosts."""
    pool: int = 24
    """Different requests."""
    limit_s: float = 1500.0
    """A storm that has not come to its end by then has found a job that never ends."""
