"""A missing package of the extra is named; anything else that is missing is a bug, and stays one."""

import contextlib
import gc
import tomllib
from pathlib import Path

import pytest

from worker.errors import ConfigError
from worker.extras import WORKER_PACKAGES, worker_extra

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
IMPORTED_AS = {"python-json-logger": "pythonjsonlogger"}


def test_a_missing_package_names_the_extra():
    hint = r"prometheus_client is not installed.*pip install 'genqueue\[worker\]'"
    with pytest.raises(ConfigError, match=hint), worker_extra():
        raise ModuleNotFoundError("No module named 'prometheus_client.core'", name="prometheus_client.core")


def test_a_module_of_ours_that_is_missing_is_no_matter_of_extras():
    with pytest.raises(ModuleNotFoundError, match=r"worker\.nonsense"), worker_extra():
        raise ModuleNotFoundError("No module named 'worker.nonsense'", name="worker.nonsense")


@pytest.mark.parametrize("error", [None, ImportError("no such name"), ModuleNotFoundError("torch", name="torch")])
def test_the_garbage_collector_stands_still_meanwhile_and_no_longer(error):
    assert gc.isenabled()
    with contextlib.suppress(ImportError, ConfigError), worker_extra():
        assert not gc.isenabled()
        if error is not None:
            raise error
    assert gc.isenabled()


def test_a_garbage_collector_that_stood_still_before_does_so_after():
    gc.disable()
    try:
        with worker_extra():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_it_knows_every_package_of_the_extra():
    extra = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]["worker"]
    names = (requirement.partition(">")[0] for requirement in extra)
    assert {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names} == WORKER_PACKAGES
