"""Trained models, on text of many scripts: the static path against transformers' generate, in float32.

    GENQUEUE_REAL_MODELS=folder python -m pytest tests/unit/worker/engine/test_real_models.py

The folder holds model folders, of which each is tried. Their tokens a second are shown, beside generate's.
"""

import json
import os
import time
import warnings
from contextlib import closing
from itertools import islice
from pathlib import Path

import jsonschema
import pytest
import torch

from producer.contract import GenerationRequest
from tests.models import CPU
from worker.engine import Engine, EngineOptions

FOLDER = os.environ.get("GENQUEUE_REAL_MODELS")
NEW_TOKENS = 48
RESUMED = 8
"""Tokens that are looked at behind each place: to look at all of them costs the square of their number."""
PROMPTS = [
    "The capital of France is", "Once upon a time, in a small village by the sea,", "1, 1, 2, 3, 5, 8, 13,",
    "Die Hauptstadt von Österreich ist", "La recette de la ratatouille commence par", "O Brasil é conhecido por",
    "El río más largo de América del Sur es", "Il gatto dorme sul divano perché", "Stolicą Polski jest",
    "Столица России — это", "Η πρωτεύουσα της Ελλάδας είναι", "中国的首都是", "日本の首都は",
    "대한민국의 수도는", "عاصمة مصر هي", "בירת ישראל היא", "भारत की राजधानी", "เมืองหลวงของประเทศไทยคือ",
    "Thủ đô của Việt Nam là", "தமிழ் மொழி", "მთავარი ქალაქია", "def fibonacci(n):\n    ",
    "SELECT name, COUNT(*) FROM users WHERE", '{"name": "Ada", "born": ', "🙂 means happy, 😢 means",
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(0),  # nobody knows how large they are
    pytest.mark.skipif(not FOLDER, reason="GENQUEUE_REAL_MODELS names no folder of trained models"),
]


def folders() -> list[Path]:
    return [path.parent for path in sorted(Path(FOLDER).glob("*/config.json"))] if FOLDER else [Path("none")]


@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_answers_as_generate_does(folder, capsys):
    torch.set_num_threads(os.cpu_count() or 1)
    options = EngineOptions(path="static", prompt_lookup=False, prefix_cache_bytes=0, context_length=1024)
    engine = Engine.load(folder, CPU, "float32", options)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of torch, by torch
        engine.warm_up()
    took, tokens, differing = {"ours": 0.0, "generate": 0.0}, 0, []
    for prompt in PROMPTS:
        request = GenerationRequest(prompt=prompt, max_new_tokens=NEW_TOKENS, ignore_eos=True)
        ids = engine.encode(request)
        started_at = time.perf_counter()
        ours = [step.token_id for step in engine.start(request, ids, seed=0)]
        took["ours"] += time.perf_counter() - started_at
        started_at = time.perf_counter()
        output = engine._model.generate(
            ids[None],
            attention_mask=torch.ones_like(ids[None]),
            do_sample=False,
            repetition_penalty=1.0,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=None,
            pad_token_id=0,
        )
        took["generate"] += time.perf_counter() - started_at
        tokens += NEW_TOKENS
        if ours != output[0, len(ids) :].tolist():
            differing.append(prompt)
    with capsys.disabled():
        speeds = ", ".join(f"{name} {tokens / seconds:.1f} tokens/s" for name, seconds in took.items())
        print(f"\n{folder.name}: {speeds}; {len(PROMPTS) - len(differing)} of {len(PROMPTS)} alike ({engine.why})")
    assert not differing


BOOK = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "year": {"type": "integer", "minimum": 1000, "maximum": 2100},
        "kind": {"enum": ["novel", "short stories", "poems"]},
    },
    "required": ["title", "year", "kind"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.8, "top_p": 0.95}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("folder", folders(), ids=lambda folder: folder.name)
def test_json_by_a_schema_is_resumed_at_every_place(folder, fields, capsys):
    torch.set_num_threads(os.cpu_count() or 1)
    engine = Engine.load(folder, CPU, "float32", EngineOptions(context_length=512))
    as_book = {"type": "json_schema", "json_schema": {"name": "book", "schema": BOOK}}
    request = GenerationRequest.parse(
        {"prompt": "A famous book, as JSON: ", "max_new_tokens": 80, "response_format": as_book, **fields}
    )
    prompt_ids = engine.encode(request)
    whole = list(engine.start(request, prompt_ids, seed=11))
    text, ids = "".join(step.text for step in whole), [step.token_id for step in whole]
    assert whole[-1].finish_reason == "stop"
    jsonschema.validate(json.loads(text), BOOK)
    for cut in range(len(whole)):  # where the next few are the same, so is what stands before the next cut
        with closing(engine.start(request, prompt_ids, seed=11, resumed_ids=ids[:cut])) as rest:
            assert [step.token_id for step in islice(rest, RESUMED)] == ids[cut : cut + RESUMED]
    with capsys.disabled():
        print(f"\n{folder.name}: {text}")
