"""The one RQ function, `worker.jobs.generate`: a name on the wire.

A genqueue worker never calls it: it recognises the name and hands the request to its engine. Only somebody
else's worker would import and call it, and is told so.
"""

from typing import Any, NoReturn


def generate(request: dict[str, Any]) -> NoReturn:  # noqa: ARG001 - the wire's signature
    """Generate text for a request (see producer.contract.GenerationRequest)."""
    raise RuntimeError(
        "worker.jobs.generate needs the worker that holds the model: start it with "
        "`python -m worker run --model-name NAME`, and let no other RQ worker listen on generate.* queues"
    )
