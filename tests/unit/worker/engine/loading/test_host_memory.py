"""What a process may take: of the machine, of a container, beside weights that are mapped files."""

from pathlib import Path

import psutil
import pytest
import torch

from tests.models import CPU, save_random_model
from worker.engine import ModelLoader
from worker.engine.loading.host_memory import available_bytes, mapped_bytes

MIB = 2**20
MACHINE = 1000 * MIB


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = psutil.virtual_memory()._replace(available=MACHINE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


class Groups:
    """A process in control groups, as Linux shows them."""

    def __init__(self, root: Path) -> None:
        self.process, self.cgroups = root / "process", root / "cgroup"
        self.process.mkdir()
        self.cgroups.mkdir()

    def member(self, *lines: str) -> None:
        (self.process / "cgroup").write_text("\n".join(lines) + "\n")

    def limit(self, group: str, limit: int | str, used: int, stat: str = "anon 1\n") -> None:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        self._write(group, names if group.startswith("memory") else ("memory.max", "memory.current"), limit, used)
        (self.cgroups / group / "memory.stat").write_text(stat)

    def _write(self, group: str, names: tuple[str, str], limit: int | str, used: int) -> None:
        (self.cgroups / group).mkdir(parents=True, exist_ok=True)
        for name, value in zip(names, (limit, used), strict=True):
            (self.cgroups / group / name).write_text(f"{value}\n")

    @property
    def available(self) -> int:
        return available_bytes(self.process, self.cgroups)


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


def test_of_a_machine(groups: Groups) -> None:
    assert groups.available == MACHINE
    groups.member("0::/user.slice")
    assert groups.available == MACHINE


class TestVersion2:
    def test_a_container_sees_its_group_as_the_root(self, groups: Groups) -> None:
        groups.member("0::/")
        groups.limit(".", 300 * MIB, 100 * MIB)
        assert groups.available == 200 * MIB

    def test_no_limit_is_the_machines(self, groups: Groups) -> None:
        groups.member("0::/a")
        groups.limit("a", "max", 100 * MIB)
        assert groups.available == MACHINE

    def test_the_page_cache_can_be_had(self, groups: Groups) -> None:
        groups.member("0::/a")
        stat = f"anon 7\nfile {90 * MIB}\ninactive_file {40 * MIB}\nactive_file {20 * MIB}\n"
        groups.limit("a", 300 * MIB, 100 * MIB, stat)
        assert groups.available == 260 * MIB

    @pytest.mark.parametrize("tight", ["a", "a/b", "a/b/c"])
    def test_each_group_above_bounds_it_too(self, groups: Groups, tight: str) -> None:
        groups.member("0::/a/b/c")
        for group in ("a", "a/b", "a/b/c"):
            groups.limit(group, 500 * MIB if group == tight else 800 * MIB, 100 * MIB)
        assert groups.available == 400 * MIB

    def test_a_group_beside_it_does_not(self, groups: Groups) -> None:
        groups.member("0::/a")
        groups.limit("a", 500 * MIB, 0)
        groups.limit("b", 100 * MIB, 0)
        assert groups.available == 500 * MIB

    def test_a_group_that_is_full(self, groups: Groups) -> None:
        groups.member("0::/a")
        groups.limit("a", 100 * MIB, 120 * MIB)
        assert groups.available < 0


class TestVersion1:
    def test_of_the_memory_controller(self, groups: Groups) -> None:
        groups.member("9:name=systemd:/x", "4:cpu,memory:/a", "0::/")
        groups.limit("memory/a", 300 * MIB, 100 * MIB, f"cache 3\ntotal_inactive_file {10 * MIB}\n")
        assert groups.available == 210 * MIB

    def test_no_limit_is_the_machines(self, groups: Groups) -> None:
        groups.member("4:memory:/a")
        groups.limit("memory/a", 9223372036854771712, 100 * MIB)
        assert groups.available == MACHINE

    def test_a_path_of_the_host_is_not_there_in_a_container(self, groups: Groups) -> None:
        groups.member("4:memory:/docker/0123456789ab")
        groups.limit("memory", 300 * MIB, 100 * MIB)
        assert groups.available == 200 * MIB


def test_this_process_has_some() -> None:
    assert available_bytes() > 0


class TestMappedWeights:
    """A model on the CPU, in the dtype of its files, stays in the page cache, which counts as available."""

    def test_are_those_in_the_dtype_of_the_files(self, tmp_path: Path) -> None:
        model = ModelLoader(save_random_model(tmp_path), "float32").load(CPU)
        assert mapped_bytes(model) == sum(parameter.nbytes for parameter in model.parameters())

    def test_are_none_in_another(self, tmp_path: Path) -> None:
        assert mapped_bytes(ModelLoader(save_random_model(tmp_path), "bfloat16").load(CPU)) == 0

    def test_are_none_of_a_model_that_was_made_here(self) -> None:
        assert mapped_bytes(torch.nn.Linear(100, 100)) == 0
