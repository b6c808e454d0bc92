"""`python -m tests.crash`: fifty streams by openai-python and fifty of a browser, while all behind them is killed.

    python -m tests.crash [--streams 50] [--rounds 4] [--tokens 200] [--seed N]

What happens is told on stderr; the last line of stdout is JSON. Exit code 1 if a client missed a token.
"""

import argparse
import json
import secrets
import sys
import tempfile
from pathlib import Path

from .crash import Plan, crash, say


def main() -> int:
    """Run it.  Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("streams", 50), ("rounds", 4), ("tokens", 200), ("seed", secrets.randbelow(10**6))):
        parser.add_argument(f"--{name}", type=int, default=default)
    plan = Plan(**vars(parser.parse_args()))
    say(f"seed {plan.seed}")
    with tempfile.TemporaryDirectory(prefix="genqueue-crash-") as folder:
        seen = crash(plan, Path(folder))
    for each in seen["wrong"][:20]:
        say(f"WRONG {each:.500}")
    print(json.dumps({**seen, "wrong": len(seen["wrong"])}))
    return 1 if seen["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
