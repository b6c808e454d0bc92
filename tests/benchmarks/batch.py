"""`genqueue batch`: what it survives, its memory, and its speed beside a loop of submit and result.

    python -m tests.benchmarks.batch [--parts deaths memory speed] [--rows 10000] [--memory-rows 10000 200000]

Starts a server that keeps nothing on disk, and a worker that answers at once. `deaths`: the command is killed
three times with -9, the server once, which comes back empty; every row must be answered exactly once. `memory`:
the highest resident size of the command over files of two lengths. Prints hardware, commit and figures; the last
line is JSON.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from producer import Producer
from producer.broker.embedded import EmbeddedBroker
from tests.instant_worker import answer_to

PARTS = ("deaths", "memory", "speed")
DOWN_S = 3.0


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--memory-rows", type=int, nargs=2, default=(10_000, 200_000))
    parser.add_argument("--loop-rows", type=int, default=2_000, help="Of the loop of submit and result.")
    options = parser.parse_args()
    commit = ["git", "describe", "--always", "--dirty"]
    figures: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "commit": subprocess.run(commit, capture_output=True, text=True, check=False).stdout.strip(),
    }
    if "deaths" in options.parts:
        figures["deaths"] = show("deaths", deaths(options.rows))
    if "memory" in options.parts:
        figures["memory"] = show("memory", memory(*options.memory_rows))
    if "speed" in options.parts:
        figures["speed"] = show("speed", speed(options.rows, options.loop_rows))
    print(json.dumps(figures))


def show(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """For people."""
    said = [f"{key.replace('_', ' ')} {value}" for key, value in figures.items()]
    print(f"{name}: {', '.join(said)}", flush=True)
    return figures


@contextlib.contextmanager
def served() -> Iterator[tuple[EmbeddedBroker, Path]]:
    """A server, a worker that answers at once, and a folder."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedBroker() as broker:
        worker = subprocess.Popen([sys.executable, "-m", "tests.instant_worker", broker.url])
        try:
            yield broker, Path(folder)
        finally:
            worker.kill()
            worker.wait()


def write_rows(path: Path, rows: int) -> Path:
    """Prompts that differ, all of one length."""
    with path.open("w") as file:
        file.writelines(json.dumps(prompt(number)) + "\n" for number in range(1, rows + 1))
    return path


def prompt(line: int) -> str:
    """Of a line."""
    return f"row {line:09}"


def start(source: Path, target: Path, url: str, *options: str) -> subprocess.Popen[bytes]:
    """The command."""
    command = [sys.executable, "-m", "producer", "batch", str(source), str(target), "--model-name", "tiny"]
    with source.with_suffix(".log").open("ab") as log:
        return subprocess.Popen([*command, "--redis-url", url, *options], stderr=log)


def lines_of(target: Path) -> int:
    """Whole lines so far."""
    return target.read_bytes().count(b"\n") if target.exists() else 0


def wait_for_lines(target: Path, lines: int, command: subprocess.Popen[bytes]) -> None:
    """Until so many are there."""
    while lines_of(target) < lines:
        assert command.poll() is None, "the command has ended"
        time.sleep(0.02)


def deaths(rows: int) -> dict[str, Any]:
    """Three times kill -9, once the server, and what stands in the output then."""
    with served() as (broker, folder):
        source, target = write_rows(folder / "in.jsonl", rows), folder / "out.jsonl"
        began = time.monotonic()
        killed_at = []
        for share in (0.2, 0.4, 0.6):
            command = start(source, target, broker.url)
            wait_for_lines(target, int(rows * share), command)
            command.kill()
            command.wait()
            killed_at.append(lines_of(target))
        command = start(source, target, broker.url)
        wait_for_lines(target, int(rows * 0.8), command)
        broker.kill()
        killed_at.append(lines_of(target))
        time.sleep(DOWN_S)
        broker.start()
        assert command.wait() == 0, source.with_suffix(".log").read_text()
        return {
            "rows": rows,
            "killed_after": killed_at,
            "s": round(time.monotonic() - began, 1),
            **check(target, rows),
        }


def check(target: Path, rows: int) -> dict[str, int]:
    """How many rows have their answer once, more than once, never, or the wrong one."""
    seen: Counter[int] = Counter()
    wrong = 0
    with target.open() as file:
        for line in file:
            answer = json.loads(line)
            seen[answer["line"]] += 1
            wrong += answer["text"] != answer_to(prompt(answer["line"]))
    once = sum(count == 1 for count in seen.values())
    found = {"once": once, "twice": len(seen) - once, "lost": rows - len(seen), "wrong": wrong}
    assert found == {"once": rows, "twice": 0, "lost": 0, "wrong": 0}, found
    return found


def memory(few: int, many: int) -> dict[str, Any]:
    """Highest resident size of the command, in MiB: with so many rows, and when all of them have been answered."""
    with served() as (broker, folder):
        sizes = []
        for rows in (few, many):
            source, target = write_rows(folder / f"{rows}.jsonl", rows), folder / f"{rows}.out"
            sizes.append(peak_mib(source, target, broker.url))
        resumed = peak_mib(source, target, broker.url)
        growth = round(100 * (sizes[1] / sizes[0] - 1), 1)
        return {"rows": [few, many], "peak_mib": sizes, "growth_percent": growth, "resumed_peak_mib": resumed}


def peak_mib(source: Path, target: Path, url: str) -> float:
    """Of one run, as the kernel says shortly before its end.

    Not by ru_maxrss: a child's begins with that of the process that started it.
    """
    command, peak_kib = start(source, target, url), 0
    while command.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            status = Path(f"/proc/{command.pid}/status").read_text()
            peak_kib = int(status.partition("VmHWM:")[2].split("kB")[0])
        time.sleep(0.02)
    assert command.returncode == 0, source.with_suffix(".log").read_text()
    return round(peak_kib / 1024, 1)


def speed(rows: int, loop_rows: int) -> dict[str, Any]:
    """Rows a second of the command, start and end included, and of a loop in a script."""
    with served() as (broker, folder):
        source, target = write_rows(folder / "in.jsonl", rows), folder / "out.jsonl"
        began = time.monotonic()
        assert start(source, target, broker.url).wait() == 0
        by_batch = rows / (time.monotonic() - began)
        began = time.monotonic()
        with Producer(broker.url) as producer:
            for line in range(1, loop_rows + 1):
                text = producer.submit(prompt(line), model="tiny").result().text
                assert text == answer_to(prompt(line))
        by_loop = loop_rows / (time.monotonic() - began)
    return {"batch_rows_per_s": round(by_batch), "loop_rows_per_s": round(by_loop)}


if __name__ == "__main__":
    main()
