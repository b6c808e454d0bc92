"""An OpenAI-compatible door to the queue, over HTTP. It is a producer: it submits, follows, and never generates.

What a request was stands in the record of its job on Redis, and what came of it in the job's stream. So any
gateway answers for what another took in, and a kill of one loses nothing. `README.md` has the map.
"""

from ..contract import GenqueueError


class GatewayNotInstalled(GenqueueError, ImportError):
    """The gateway is not installed: pip install 'genqueue[gateway]'"""


try:
    import prometheus_client  # noqa: F401
    import python_multipart  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError as missing:
    raise GatewayNotInstalled from missing

__all__ = ["GatewayNotInstalled"]
