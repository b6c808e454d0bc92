"""What a look at a machine has found: one line each, for people and, as JSON, for programs.

`genqueue doctor` and `python -m worker doctor` both find, and the former reads what the latter has found.
"""

import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Literal

from pydantic import TypeAdapter

from ..contract.strict import Frozen

State = Literal["ok", "warning", "wrong"]

_INDENT = 24
_COMMAND = re.compile(r"\n  (.+)")
"""A line of a message that stands by itself, to be typed or written."""


class Finding(Frozen):
    """One thing that was looked at."""

    name: str
    state: State
    """`wrong`: something cannot work. `warning`: it works, and something can be lost or slow."""
    message: str
    """What is there; and, unless it is ok, what to do."""

    def line(self, width: int | None = None) -> str:
        """For people; broken into lines of that width, as a paragraph, where there is one."""
        message = _COMMAND.sub(r" `\1`", self.message)
        text = f"{self.state:<8} {self.name:<14} {' '.join(message.split())}"
        if width is None:
            return text
        lines = textwrap.wrap(
            text, max(width, 60), subsequent_indent=" " * _INDENT, break_long_words=False, break_on_hyphens=False
        )
        return "\n".join(lines)


FINDINGS: TypeAdapter[list[Finding]] = TypeAdapter(list[Finding])


def shown(findings: Sequence[Finding], *, as_json: bool) -> str:
    """For stdout: a line each; whole lines where stdout is no terminal, for whoever searches them."""
    if as_json:
        return FINDINGS.dump_json(list(findings), indent=2).decode() + "\n"
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return "".join(finding.line(width) + "\n" for finding in findings)


def size(count: int) -> str:
    """Of so many bytes, for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


def is_wrong(findings: Sequence[Finding]) -> bool:
    """Whether anything is."""
    return any(finding.state == "wrong" for finding in findings)


def judge_rights(role: str, faults: Sequence[str]) -> Finding:
    """role: producer or worker; faults: commands that the user of Redis is refused."""
    if not faults:
        return Finding(name="rights", state="ok", message=f"the user of Redis may do what a {role} does")
    more = f", and {len(faults) - 5} more" if len(faults) > 5 else ""
    return Finding(
        name="rights",
        state="wrong",
        message=f"the user of Redis may not do what a {role} does ({'; '.join(faults[:5])}{more}): extend its "
        "ACL, as in configs/redis.acl",
    )
