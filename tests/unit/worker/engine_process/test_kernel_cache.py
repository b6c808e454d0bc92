"""Kernels are kept somewhere, whoever the user is and whatever may be written to."""

import getpass
import logging
import os
import tempfile
from pathlib import Path

import pytest

from worker.engine_process.kernel_cache import TORCH_FOLDER, TRITON_FOLDER, set_up_kernel_cache


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder for temporary files, and a user with a name and nothing set."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(getpass, "getuser", lambda: "somebody")
    for variable in (TORCH_FOLDER, TRITON_FOLDER):
        monkeypatch.setenv(variable, "")  # so that it is restored afterwards, whatever is put there
        monkeypatch.delenv(variable)
    return tmp_path


@pytest.fixture
def private(temporary) -> Path:
    return temporary / f"genqueue-kernels-{os.getuid()}"


def nobody() -> str:
    raise KeyError("getpwuid(): uid not found: 12345")


def test_torchs_own_folder_is_left_alone(temporary, caplog):
    set_up_kernel_cache()
    assert TORCH_FOLDER not in os.environ
    assert caplog.text == ""
    assert (temporary / "torchinductor_somebody").is_dir()


def test_a_folder_that_is_asked_for_is_made_and_used(temporary, monkeypatch, caplog):
    monkeypatch.setenv(TORCH_FOLDER, str(temporary / "deep" / "kernels"))
    set_up_kernel_cache()
    assert os.environ[TORCH_FOLDER] == str(temporary / "deep" / "kernels")
    assert caplog.text == ""


@pytest.mark.parametrize("variable", [TORCH_FOLDER, TRITON_FOLDER])
def test_one_that_cannot_be_written_to_gives_way_and_is_named(variable, private, monkeypatch, caplog):
    monkeypatch.setenv(variable, "/dev/null/kernels")
    with caplog.at_level(logging.WARNING):
        set_up_kernel_cache()
    assert os.environ[variable] == str(private)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "/dev/null/kernels cannot be written to" in caplog.text
    assert f"set {variable}" in caplog.text
    assert private.stat().st_mode & 0o777 == 0o700


def test_a_user_without_a_name_gets_a_folder(private, monkeypatch, caplog):
    monkeypatch.setattr(getpass, "getuser", nobody)
    set_up_kernel_cache()
    assert os.environ[TORCH_FOLDER] == str(private)
    assert f"no user has the id {os.getuid()}" in caplog.text


def test_the_same_folder_at_every_start(private, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", nobody)
    set_up_kernel_cache()
    (private / "kernel.so").touch()
    monkeypatch.delenv(TORCH_FOLDER)
    set_up_kernel_cache()
    assert os.environ[TORCH_FOLDER] == str(private)
    assert (private / "kernel.so").exists()


@pytest.mark.parametrize("taken", ["by a link", "by a folder that others can write to"])
def test_a_folder_that_may_be_somebody_elses_is_not_trusted(taken, private, temporary, monkeypatch):
    monkeypatch.setattr(getpass, "getuser", nobody)
    if taken == "by a link":
        (temporary / "elsewhere").mkdir()
        private.symlink_to(temporary / "elsewhere")
    else:
        private.mkdir()
        private.chmod(0o777)
    set_up_kernel_cache()
    chosen = Path(os.environ[TORCH_FOLDER])
    assert chosen != private
    assert chosen.stat().st_mode & 0o777 == 0o700


def test_without_any_temporary_folder_the_engine_starts_all_the_same(monkeypatch, caplog):
    def nowhere() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    set_up_kernel_cache()
    assert TORCH_FOLDER not in os.environ
    assert "kernels cannot be kept" in caplog.text
