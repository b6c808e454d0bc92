"""The test itself: clients read on while worker, engine, gateways and Redis are killed in turn."""

import contextlib
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from tests.models import tiny_model_paths

from .house import LONG_S, House, until
from .readers import Answer, BrowserReaders, OpenAIReaders, browser, page

PROMPTS = ("Hi", "你好，介绍一下你自己", "What is genqueue?", "Tell me of the sea.", "One, two, three,")
TURN = ("worker", "gateways", "engine", "server")
PROGRESS = 4
"""Answers between two kills: what was killed before is back at work."""


@dataclass(frozen=True)
class Plan:
    """streams: of each kind of client.  rounds: each kills them all.  tokens: of an answer."""

    streams: int = 50
    rounds: int = 4
    tokens: int = 200
    seed: int = 0


def requests_of(plan: Plan) -> list[dict[str, Any]]:
    """What clients ask: a text of a given length, the same for whoever asks it."""
    return [
        {"model": "tiny", "messages": [{"role": "user", "content": prompt}], "max_tokens": plan.tokens, "seed": 7}
        for prompt in PROMPTS
    ]


def crash(plan: Plan, folder: Path) -> dict[str, Any]:
    """Run it.  Returns what was seen; asserts that each client has each of its texts once."""
    rng = random.Random(plan.seed)
    asked = requests_of(plan)
    with page() as origin, browser(folder) as tab, House(folder, tiny_model_paths(), origin) as house:
        client = openai.OpenAI(base_url=house.url(), api_key="none", timeout=LONG_S, max_retries=20)
        expected = [_whole(client, request) for request in asked]
        began = time.monotonic()
        by_openai = OpenAIReaders(
            house, [{**each, "extra_body": {"ignore_eos": True}} for each in asked], plan.streams, rng
        )
        by_browser = BrowserReaders(
            tab, origin, house, [{**each, "stream": True, "ignore_eos": True} for each in asked], plan.streams
        )
        kills: Counter[str] = Counter()
        for whom in TURN * plan.rounds:
            seen = len(by_openai.answers), by_browser.count()
            until(
                lambda seen=seen: (  # type: ignore[misc]
                    len(by_openai.answers) >= seen[0] + PROGRESS and by_browser.count() >= seen[1] + PROGRESS
                ),
                f"answers go on after {dict(kills)}",
            )
            time.sleep(rng.random() / 2)
            say(f"{time.monotonic() - began:5.1f} s: {seen} answers, kills a {whom}")
            getattr(house, f"kill_{whom}")()
            kills[whom] += 1
        by_openai.finish()
        by_browser.finish()
        say(f"{time.monotonic() - began:5.1f} s: all have read their last")
        answers = {"openai": by_openai.answers, "browser": by_browser.answers}
        wrong = [*by_openai.errors, *by_browser_errors(tab)]
        for kind, each in answers.items():
            wrong += [f"{kind}: {fault}" for answer in each for fault in faults_of(answer, expected)]
        wrong += _against_results(client, [answer for each in answers.values() for answer in each], rng)
        return {
            "streams": 2 * plan.streams,
            "seconds": round(time.monotonic() - began),
            "kills": dict(kills),
            "answers": {kind: len(each) for kind, each in answers.items()},
            "wrong": wrong,
        }


def faults_of(answer: Answer, expected: list[str]) -> list[str]:
    """What is wrong with an answer, beside an undisturbed run."""
    differs = [] if answer.text == expected[answer.which] else [f"{answer.text!r} != {expected[answer.which]!r}"]
    return [f"{answer.public_id}: {fault}" for fault in (*answer.faults, *differs)]


def by_browser_errors(tab: Any) -> list[str]:
    """What the page's console says, but for connections that were cut, which is what happens here."""
    return [error for error in tab.errors if not error.startswith("network:") and "CORS" not in error]


def _whole(client: openai.OpenAI, request: dict[str, Any]) -> str:
    said = client.chat.completions.create(**request, extra_body={"ignore_eos": True}).choices[0].message.content
    assert said
    return str(said)


def _against_results(client: openai.OpenAI, answers: list[Answer], rng: random.Random) -> list[str]:
    """Of some of them, whether the job's own result says the same."""
    wrong = []
    for answer in rng.sample(answers, min(20, len(answers))):
        with contextlib.suppress(openai.APIStatusError):
            whole = client.chat.completions.retrieve(answer.public_id).choices[0].message.content
            if whole == answer.text:
                continue
        wrong.append(f"{answer.public_id}: the job's result is another")
    return wrong


def say(text: str) -> None:
    """To people."""
    print(text, file=sys.stderr, flush=True)
