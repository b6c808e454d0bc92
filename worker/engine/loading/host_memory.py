"""What host memory there is for us: of the machine, and of the container that we may be in."""

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
from torch import nn

_PROCESS = Path("/proc/self")
_CGROUPS = Path("/sys/fs/cgroup")


def available_bytes(process: Path = _PROCESS, cgroups: Path = _CGROUPS) -> int:
    """What can be allocated without swapping. Files in the page cache count as available: they can be read again.

    The limits of a container are those of its control group and of each group above it, which the figures of the
    machine know nothing of.
    `process`, `cgroups`: where Linux shows the process, and the groups.
    """
    return min([int(psutil.virtual_memory().available), *_rooms(process, cgroups)])


def mapped_bytes(model: nn.Module, process: Path = _PROCESS) -> int:
    """Of weights that lie in the page cache, as mapped files. They count as available, and are read at each token.

    Only a model on the CPU, in the dtype of its files, has any.
    """
    if sys.platform != "linux":
        return 0
    spans = list(_mapped_spans(process / "maps"))
    tensors = {tensor.data_ptr(): tensor.nbytes for tensor in model.parameters() if tensor.device.type == "cpu"}
    return sum(size for start, size in tensors.items() if any(low <= start < high for low, high in spans))


def _rooms(process: Path, cgroups: Path) -> Iterator[int]:
    """What is free below each limit that holds for this process."""
    for group, names in _groups(process / "cgroup", cgroups):
        for folder in [group, *group.parents]:
            if (room := _room(folder, *names)) is not None:
                yield room
            if folder == cgroups:
                break


_VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_VERSION_2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))


def _groups(memberships: Path, cgroups: Path) -> Iterator[tuple[Path, tuple[str, str, tuple[str, ...]]]]:
    """The groups of the process that bound its memory, and what their files are called.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
    """
    try:
        lines = memberships.read_text().splitlines()
    except OSError:  # no Linux, or hidden
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        # A path that counts from the host's root is not there inside of a container: its ancestors are looked at.
        if not controllers:
            yield cgroups / path.lstrip("/"), _VERSION_2
        elif "memory" in controllers.split(","):
            yield cgroups / "memory" / path.lstrip("/"), _VERSION_1


def _room(group: Path, limit: str, usage: str, reclaimable: tuple[str, ...]) -> int | None:
    """None where the group has no limit."""
    try:
        bound, used = (group / limit).read_text().strip(), int((group / usage).read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if bound == "max":
        return None
    return int(bound) - used + sum(int(stat.get(name, 0)) for name in reclaimable)


def _mapped_spans(maps: Path) -> Iterator[tuple[int, int]]:
    """Addresses of safetensors files in memory.  Source: Linux, Documentation/filesystems/proc.rst."""
    for line in maps.read_text().splitlines():
        if line.endswith(".safetensors"):
            low, high = line.split(maxsplit=1)[0].split("-")
            yield int(low, 16), int(high, 16)
