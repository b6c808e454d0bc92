"""A fakeredis that RQ takes for a server of today: without INFO, it believes in an old one."""

from typing import Any

from fakeredis import FakeRedis


class Server(FakeRedis):
    """Answers INFO, which fakeredis does not know."""

    def info(self, *_: Any, **__: Any) -> dict[str, str]:
        return {"redis_version": "7.4.0"}
