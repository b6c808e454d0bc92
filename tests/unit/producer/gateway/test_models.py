"""Which models there are, and what a request for one is told that no worker serves."""

import pytest

from producer import operations
from producer.testing import ScriptedWorker

from .conftest import Door, OpenDoor


async def test_models_are_those_that_workers_serve(door: Door, worker: ScriptedWorker):
    worker.serves("tiny", "large")
    listed = (await door.http.get("/v1/models")).json()
    assert [each["id"] for each in listed["data"]] == ["large", "tiny"]
    tiny = (await door.http.get("/v1/models/tiny")).json()
    assert tiny == listed["data"][1]
    assert (tiny["object"], tiny["state"], tiny["chat_template"], tiny["workers"]) == ("model", "ready", True, 1)


async def test_a_model_that_no_worker_serves_now_is_to_be_asked_for_again(door: Door, worker: ScriptedWorker):
    assert (await door.chat("Hi")).status_code == 200
    worker.serves()
    door.gateway.producer._operations._rosters.clear()
    door.gateway.producer._overview._until = 0.0
    refused = await door.chat("Hi")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_served")
    assert int(refused.headers["retry-after"]) >= 1
    assert len(worker.requests) == 1


@pytest.mark.parametrize("model", ["tinny", "a/b", "", "x.high"])
async def test_a_model_of_which_nothing_is_known_is_not_found(door: Door, model: str):
    refused = await door.http.post("/v1/chat/completions", json=Door.body("Hi") | {"model": model})
    assert refused.status_code == (404 if model == "tinny" else 400)
    assert refused.json()["error"]["param"] == "model"
    if model == "tinny":
        assert "did you mean tiny?" in refused.text


async def test_health_and_readiness(open_door: OpenDoor, worker: ScriptedWorker):
    door = await open_door()
    assert (await door.http.get("/health")).json() == {"status": "ok"}
    assert (await door.http.get("/ready")).json() == {"status": "ready", "models": ["tiny"]}
    worker.serves()
    door.gateway.producer._overview._until = 0.0
    refused = await door.http.get("/ready")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_served")
    assert (await door.http.get("/health")).status_code == 200


async def test_a_full_queue_is_to_be_tried_again(open_door: OpenDoor, worker: ScriptedWorker):
    door = await open_door(max_queued=2)
    with worker.paused():
        refused = await door.chat("Hi", n=3)
        assert refused.status_code == 429
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) >= 1


async def test_names_of_models_that_are_not_there_are_not_kept_for_ever(
    door: Door, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(operations, "ROSTERS_KEPT", 3)
    for number in range(8):
        body = Door.body("Hi") | {"model": f"none{number}"}
        assert (await door.http.post("/v1/chat/completions", json=body)).status_code == 404
    assert len(door.gateway.producer._operations._rosters) <= 3
