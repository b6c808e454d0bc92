"""The cookbook's programs for producers on the scripted worker, in this process: in seconds, and without a model.

`tests/integration/test_cookbook.py` runs all of them on a real one.
"""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from producer.testing import ScriptedWorker
from tests.documents import Document

README, COOKBOOK = Document("README.md"), Document("producer/README.md")
GENQUEUE, WHO, KILL = "What is genqueue?", "Who are you?", "What survives a kill -9?"


def answer_to(prompt: str) -> str:
    return f"scripted answer to: {prompt}"


@pytest.fixture
def cook(
    genqueue_worker: ScriptedWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str], str]:
    """Runs a program in a folder of its own, and gives what it prints."""
    monkeypatch.chdir(tmp_path)

    def cook(code: str) -> str:
        run(code)
        return capsys.readouterr().out

    return cook


def run(code: str) -> dict:
    names: dict = {"__name__": "__main__"}
    exec(compile(code, "recipe.py", "exec"), names)
    return names


def test_the_first_script(cook) -> None:
    [script] = README.blocks("A script")
    text, usage = cook(script).splitlines()
    assert text == answer_to(GENQUEUE)
    assert "completion_tokens" in usage


def test_a_chat(cook, genqueue_worker: ScriptedWorker) -> None:
    [script] = README.blocks("Chat")
    assert cook(script).splitlines() == [answer_to(WHO), answer_to("Shorter, please.")]
    assert [message.content for message in genqueue_worker.requests[1].request.messages] == [
        WHO,
        answer_to(WHO),
        "Shorter, please.",
    ]


@pytest.mark.parametrize("crashes", [0, 2])
def test_tools(cook, genqueue_worker: ScriptedWorker, crashes: int) -> None:
    [script] = COOKBOOK.blocks("Tools")
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Vienna"}}\n</tool_call>'
    genqueue_worker.answers("How is the weather in Vienna?", call)
    for _ in range(crashes):
        genqueue_worker.crash_after(tokens=25)
    assert cook(script) == answer_to("sunny, 24 degrees") + "\n"
    _, called, answered = genqueue_worker.requests[1].request.messages
    assert called.tool_calls[0].id == answered.tool_call_id
    assert (called.content, answered.content) == ("", "sunny, 24 degrees")


def test_a_script_that_is_started_again(cook, genqueue_worker: ScriptedWorker) -> None:
    [script] = COOKBOOK.blocks("A script that is started again")
    first, second = cook(script).splitlines(), cook(script).splitlines()
    assert first[:2] == ["submitted", answer_to(KILL)]
    assert second == ["submitted before", *first[1:]]
    assert genqueue_worker.prompts == [KILL]


def test_an_answer_that_was_cut_off(cook, genqueue_worker: ScriptedWorker) -> None:
    [script] = COOKBOOK.blocks("An answer that was cut off")
    genqueue_worker.answers(GENQUEUE, "a" * 20 + "b" * 20 + "c")
    assert cook(script) == "a" * 20 + "b" * 20 + "c\n"
    given = [job.request.output_token_ids for job in genqueue_worker.requests]
    assert [len(ids or ()) for ids in given] == [0, 20, 40]


def test_asyncio(cook) -> None:
    [script] = COOKBOOK.blocks("asyncio")
    assert cook(script).splitlines() == [answer_to(prompt) for prompt in (GENQUEUE, WHO, KILL)]


def test_prompts_from_a_csv(cook, genqueue_worker: ScriptedWorker) -> None:
    """One that fails, and one that dies in mid-answer and goes on."""
    [script] = COOKBOOK.blocks("Prompts from a CSV")
    genqueue_worker.fails(KILL, code="out_of_memory", message="no room")
    genqueue_worker.crash_after(tokens=4)
    with Path("prompts.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["number", "prompt"], *enumerate([GENQUEUE, KILL, WHO])])
    cook(script)
    with Path("answers.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["answer"] for row in rows] == [answer_to(GENQUEUE), "", answer_to(WHO)]
    assert [row["error"] for row in rows] == ["", "out_of_memory: no room", ""]


def test_waiting_for_many_jobs(cook, genqueue_worker: ScriptedWorker) -> None:
    [script] = COOKBOOK.blocks("Waiting for many jobs")
    genqueue_worker.fails("too long " * 2000, code="prompt_too_long")
    assert sorted(cook(script).splitlines()) == [
        f"0 {answer_to(GENQUEUE)}",
        "1 prompt_too_long",
        f"2 {answer_to(WHO)}",
    ]


@pytest.mark.parametrize("crashes", [0, 2])
def test_a_web_app(genqueue_worker: ScriptedWorker, crashes: int) -> None:
    """Its reader sees one answer, however many workers it takes."""
    [app] = COOKBOOK.blocks("FastAPI for one reader")
    for _ in range(crashes):
        genqueue_worker.crash_after(tokens=5)
    with TestClient(run(app)["app"]) as browser:
        lines = browser.get("/answer", params={"prompt": "Hi"}).text.splitlines()
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert "".join(tokens["text"] for tokens in data if "ids" in tokens) == answer_to("Hi")
    assert (data[-1]["status"], data[-1]["attempts"]) == ("finished", crashes + 1)
