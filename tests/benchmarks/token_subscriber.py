"""A live subscriber of the checkout that it runs in: submits a job, follows it, and says what that cost.

Reads the number of tokens from stdin, a line a job, and writes a JSON line for each: when each token was seen
(`time.monotonic()` seconds), and the processor time that it took to follow the job (seconds).
"""

import json
import sys
import time
from typing import Any

from producer import Producer, Tokens


def main(url: str) -> None:
    """Until stdin ends."""
    with Producer(url) as producer:
        for line in sys.stdin:
            sampling: dict[str, Any] = {"max_new_tokens": int(line), "ignore_eos": True, "prompt_lookup": False}
            job = producer.submit("你好，介绍一下你自己", model="tiny", **sampling)
            seen: list[float] = []
            events = 0
            began = 0.0
            for streamed in job.stream():
                if isinstance(streamed.event, Tokens):
                    began = began or time.process_time()
                    seen += [time.monotonic()] * len(streamed.event.data.ids)
                    events += 1
            print(json.dumps({"seen": seen, "events": events, "cpu_s": time.process_time() - began}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
