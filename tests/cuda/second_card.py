"""Engines on cuda:1 of two cards: `python -m tests.cuda.second_card FOLDER` prints, as JSON, on which cards the
process then holds a context. FOLDER: of a model."""

import json
import sys
from pathlib import Path

from tests.unit.worker.engine.asking import answer, request
from worker.engine import Engine, EngineOptions, resolve_device

from . import card
from .numbers import Numbers

if __name__ == "__main__":
    folder, device = Path(sys.argv[1]), resolve_device("cuda:1")
    engine = Engine.load(folder, device)
    engine.warm_up()
    assert (engine.path.compiled, engine.path.captured) == (True, True), engine.why
    with Numbers():
        engine = Engine.load(folder, device, options=EngineOptions(compile="never"))
        engine.warm_up()
        assert len(answer(engine, request(range(50), max_new_tokens=20, temperature=1.0))) == 20
    json.dump(card.touched(count=2), sys.stdout)
