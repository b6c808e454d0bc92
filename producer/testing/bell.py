"""What wakes a scripted worker: a job in a queue, a request to cancel, or whoever rings."""

import uuid

import redis
from redis.client import PubSub

PATTERNS = ("__keyspace@0__:rq:queue:*", "__keyspace@0__:rq:suspended", "__keyspace@0__:*:cancel")
"""Names under which fakeredis, without being told to, announces changes of those keys."""

LONGEST_S = 3_600.0


class Bell:
    """Rung by a change of the keys in PATTERNS. A ring that nobody waits for is heard by the next wait."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._channel = f"bell:{uuid.uuid4().hex}"
        self._rings: PubSub = client.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._rings.psubscribe(*PATTERNS)
        self._rings.subscribe(self._channel)

    def ring(self) -> None:
        """From any thread."""
        self._client.publish(self._channel, "")

    def wait(self, timeout_s: float | None) -> None:
        """Return when it rings, or when the time is over; None: a long one. It may ring for nothing."""
        self._rings.get_message(timeout=LONGEST_S if timeout_s is None else min(timeout_s, LONGEST_S))
        while self._rings.get_message(timeout=0) is not None:
            pass
