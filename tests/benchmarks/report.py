"""From the files in results/ to the table and the picture in README.md here: `python -m tests.benchmarks.report`.

Nothing in its part between the markers is written by hand.
"""

import json
import re
from html import escape
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
PICTURE = RESULTS / "engine.svg"
BEGIN, END = "<!-- engine figures: tests/benchmarks/report.py -->", "<!-- end of engine figures -->"

WIDTH, LEFT, BAR, GAP = 720, 210, 20, 8
COLOURS = {"genqueue": "#2f6f4f", "llama.cpp": "#8a6d3b"}
OTHER = "#9aa5b1"


def main() -> None:
    """Draw both."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("engine-*.json"))]
    PICTURE.write_text(picture(runs))
    link = f"![Tokens per second by engine]({PICTURE.relative_to(README.parent)})"
    parts = [BEGIN, link, *map(table, runs), END]
    text = README.read_text()
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    README.write_text(pattern.sub(lambda _: "\n\n".join(parts), text))


def title(run: dict[str, Any]) -> str:
    """What a run was taken on."""
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"{run['hardware']}, {run['bandwidth_gb_s']} GB/s measured, {run['threads']} threads, {versions}"


def table(run: dict[str, Any]) -> str:
    """One run as a Markdown table, without the columns in which it has nothing."""
    rows = sorted(run["rows"], key=lambda row: (*place(row), -row["tokens_per_second"]))
    columns = {
        "model": [row["shape"] for row in rows],
        "dtype": [row["dtype"] for row in rows],
        "prompt": [str(row["prompt_tokens"]) for row in rows],
        "sampling": [row["sampling"] for row in rows],
        "engine": [row["engine"] for row in rows],
        "first token": [f"{row['ttft_ms']:.0f} ms" for row in rows],
        "over llama.cpp": [written(row.get("first_token_over_llama_cpp"), ".2f") for row in rows],
        "tokens/s (slowest-fastest)": [speed(row) for row in rows],
        "over llama.cpp ": [written(row.get("speed_over_llama_cpp"), ".2f") for row in rows],
        "bandwidth": [written(row["fraction_of_bandwidth"], ".0%") for row in rows],
        "same text": [written(row.get("same_tokens"), "d") for row in rows],
    }
    filled = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [f"| {' | '.join(cells)} |" for cells in zip(*filled.values(), strict=True)]
    head = [f"| {' | '.join(map(str.strip, filled))} |", "|---" * len(filled) + "|"]
    return "\n".join([f"{title(run)}, commit {run['commit']}:", "", *head, *lines])


def written(value: float | None, form: str) -> str:
    """Nothing for what was not measured."""
    return "" if value is None else format(value, form)


def speed(row: dict[str, Any]) -> str:
    """Median and spread."""
    low, high = row["tokens_per_second_spread"]
    return f"{row['tokens_per_second']:.1f} ({low:.1f}-{high:.1f})"


def place(row: dict[str, Any]) -> tuple[str, str, int, str]:
    """What was measured, whoever ran it."""
    return row["shape"], row["dtype"], row["prompt_tokens"], row["sampling"]


def picture(runs: list[dict[str, Any]]) -> str:
    """Bars of tokens per second, greedy, for the shortest prompt of each shape and dtype."""
    drawn: list[str] = []
    y = GAP
    for run in runs:
        greedy = [row for row in run["rows"] if row["sampling"] == "greedy"]
        for shape, dtype in dict.fromkeys((row["shape"], row["dtype"]) for row in greedy):
            rows = [row for row in greedy if (row["shape"], row["dtype"]) == (shape, dtype)]
            shortest = min(row["prompt_tokens"] for row in rows)
            rows = [row for row in rows if row["prompt_tokens"] == shortest]
            drawn.append(
                text(GAP, y + BAR - 5, f"{shape}, {dtype}, prompt of {shortest}: tokens/s", weight="bold")
            )
            y += BAR + GAP
            most = max(row["tokens_per_second"] for row in rows)
            for row in sorted(rows, key=lambda row: -row["tokens_per_second"]):
                drawn += bar(y, row, most)
                y += BAR + GAP
            y += GAP
    style = "font-family:sans-serif;font-size:13px"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" style="{style}">\n'
        f'<rect width="{WIDTH}" height="{y}" fill="#ffffff"/>\n' + "\n".join(drawn) + "\n</svg>\n"
    )


def bar(y: int, row: dict[str, Any], most: float) -> list[str]:
    """One engine."""
    width = round((WIDTH - LEFT - 80) * row["tokens_per_second"] / most)
    colour = COLOURS.get(row["engine"].partition("-")[0], OTHER)
    return [
        text(LEFT - GAP, y + BAR - 5, row["engine"], anchor="end"),
        f'<rect x="{LEFT}" y="{y}" width="{width}" height="{BAR}" fill="{colour}"/>',
        text(LEFT + width + GAP, y + BAR - 5, f"{row['tokens_per_second']:.1f}"),
    ]


def text(x: int, y: int, content: str, *, anchor: str = "start", weight: str = "normal") -> str:
    """One line of text."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}">{escape(content)}</text>'


if __name__ == "__main__":
    main()
