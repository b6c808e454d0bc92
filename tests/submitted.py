"""What was submitted, as it stands on Redis."""

import json
import zlib

import redis

from producer.contract import GenerationRequest


def request_of(client: redis.Redis, job_id: str) -> GenerationRequest:
    """The request of a job."""
    data = json.loads(zlib.decompress(client.hget(f"rq:job:{job_id}", "data")))  # type: ignore[arg-type]
    return GenerationRequest.parse(data[3]["request"])
