"""The documents as tests read them: their sections, tables, and the code that stands in them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
_HEADING = re.compile(r"^(#{1,6}) (.+)$")
_FENCE = re.compile(r"^```(\w*)$")


class Document:
    """A Markdown file.  name: relative to the top of the project."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / name
        self.text = self.path.read_text(encoding="utf-8")

    @property
    def headings(self) -> list[str]:
        """In their order, those of every level."""
        return [title for _, title, _ in self._sections()]

    @property
    def anchors(self) -> set[str]:
        """What a link may name behind its `#`, as GitHub makes it of a heading."""
        return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in self.headings}

    def section(self, title: str) -> str:
        """The text under a heading, up to the next one of the same level or above."""
        sections = self._sections()
        [(place, level)] = [(n, level) for n, (level, found, _) in enumerate(sections) if found == title]
        text = sections[place][2]
        for deeper, _, more in sections[place + 1 :]:
            if deeper <= level:
                break
            text += more
        return text

    def blocks(self, title: str, language: str = "python") -> list[str]:
        """The code of that language under a heading.  Raises AssertionError where there is none."""
        found = [code for known, code in self._blocks(self.section(title)) if known == language]
        assert found, f"{self.path.name} has no {language} under {title!r}"
        return found

    def commands(self) -> list[str]:
        """The lines of its blocks without a language, which are for a shell, without their comments."""
        lines = (line for known, code in self._blocks(self.text) if not known for line in code.splitlines())
        return [command for line in lines if (command := re.sub(r"(^|\s)#.*", "", line).strip())]

    def programs(self) -> set[tuple[str, str]]:
        """Heading and language of all its blocks but those for a shell, and `text`, which is printed."""
        blocks = ((title, known) for _, title, text in self._sections() for known, _ in self._blocks(text))
        return {(title, known) for title, known in blocks if known not in {"", "text"}}

    def rows(self, title: str, first: str | None = None) -> list[list[str]]:
        """The cells of the tables under a heading, without their heads.  first: of those whose head begins so."""
        rows: list[list[str]] = []
        for table in re.findall(r"(?:^\|.*\n?)+", self.section(title), re.MULTILINE):
            head, _, *lines = (
                [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()
            )
            if first in (None, head[0]):
                rows += lines
        return rows

    def _blocks(self, text: str) -> list[tuple[str, str]]:
        blocks: list[tuple[str, str]] = []
        language: str | None = None
        code: list[str] = []
        for line in text.splitlines():
            if language is None and (fence := _FENCE.match(line)):
                language, code = fence[1], []
            elif line == "```":
                blocks.append((str(language), "\n".join(code) + "\n"))
                language = None
            else:
                code.append(line)
        return blocks

    def _sections(self) -> list[tuple[int, str, str]]:
        """Level, title and text of each: what a fence holds is no heading."""
        sections: list[tuple[int, str, str]] = []
        fenced = False
        for line in self.text.splitlines(keepends=True):
            fenced ^= line.startswith("```")
            heading = None if fenced else _HEADING.match(line.rstrip("\n"))
            if heading:
                sections.append((len(heading[1]), heading[2], ""))
            elif sections:
                level, title, text = sections[-1]
                sections[-1] = (level, title, text + line)
        return sections
