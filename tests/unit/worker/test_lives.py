"""Whose process has ended, as the kernel knows it: real processes, and the lock that each keeps."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker import lives
from worker.lives import KEEP_S, Lives


class Worker:
    """A process that is a worker of that name."""

    def __init__(self, folder: Path, name: str = "w1", *, then: str = "") -> None:
        code = (
            "import sys; from pathlib import Path; from worker.lives import Lives\n"
            f"lives = Lives(Path({str(folder)!r})); lives.begin({name!r})\n{then}\n"
            "print('begun', flush=True); sys.stdin.read(); lives.end()"
        )
        command = [sys.executable, "-c", code]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "begun\n"

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(tmp_path)
    yield worker
    worker.close()


def begin(folder: Path, name: str) -> Lives:
    """A worker of this very process."""
    ours = Lives(folder)
    ours.begin(name)
    return ours


def die(ours: Lives) -> None:
    """As its process does: the file stays."""
    os.close(ours._lock)


@pytest.mark.slow
def test_a_worker_is_over_when_its_process_was_killed_and_not_while_it_is_stopped(worker, tmp_path):
    watcher = Lives(tmp_path)
    assert not watcher.is_over("w1")
    worker.signal(signal.SIGSTOP)
    os.waitid(os.P_PID, worker.process.pid, os.WSTOPPED)
    assert not watcher.is_over("w1"), "a worker that hangs lives"
    worker.signal(signal.SIGCONT)
    assert not watcher.is_over("w1")
    worker.signal(signal.SIGKILL)
    # It has ended, and nobody has waited for it yet: a zombie holds no lock.
    os.waitid(os.P_PID, worker.process.pid, os.WEXITED | os.WNOWAIT)
    assert watcher.is_over("w1")
    assert watcher.is_over("w1"), "for good"


@pytest.mark.slow
def test_what_the_worker_has_started_does_not_keep_it_alive(tmp_path):
    then = "import subprocess; child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)"
    worker = Worker(tmp_path, then=f"{then}; print(child.pid, file=sys.stderr)")
    try:
        worker.signal(signal.SIGKILL)
        os.waitid(os.P_PID, worker.process.pid, os.WEXITED | os.WNOWAIT)
        assert Lives(tmp_path).is_over("w1")
    finally:
        worker.close()  # and with its end of the pipe the child's input is over


def test_one_that_has_left_is_no_death_and_leaves_no_file(tmp_path):
    ours = begin(tmp_path, "w1")
    ours.end()
    assert not Lives(tmp_path).is_over("w1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["of another host", "..", "../w1", "a/b", "", "\0", "x" * 5000, "\udcff"],
    ids=lambda name: repr(name[:9]),
)
def test_of_who_has_no_file_here_nothing_is_known(tmp_path, name):
    """Names come from Redis, where anybody may have written them."""
    assert not Lives(tmp_path).is_over(name)


@pytest.mark.parametrize("name", ["w1", "gpu 0/ä-1234", "..", "a.b"])
def test_any_name_will_do(tmp_path, name):
    ours = begin(tmp_path, name)
    watcher = Lives(tmp_path)
    assert not watcher.is_over(name)
    die(ours)
    assert watcher.is_over(name)
    assert len(list(tmp_path.iterdir())) == 1


def test_two_that_look_at_once_do_not_take_each_other_for_the_worker(tmp_path, monkeypatch):
    die(begin(tmp_path, "w1"))
    flock, seen = lives.fcntl.flock, []

    def look_meanwhile(descriptor: int, how: int) -> None:
        flock(descriptor, how)
        monkeypatch.setattr(lives.fcntl, "flock", flock)
        seen.append(Lives(tmp_path).is_over("w1"))

    monkeypatch.setattr(lives.fcntl, "flock", look_meanwhile)
    assert Lives(tmp_path).is_over("w1")
    assert seen == [True]


def test_a_file_has_its_name_once_it_is_locked(tmp_path, monkeypatch):
    """Before, whoever looks would take the worker for dead."""
    flock, seen = lives.fcntl.flock, []

    def look_before(descriptor: int, how: int) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(lives.fcntl, "flock", flock)
            seen.append(Lives(tmp_path).is_over("w1"))
        flock(descriptor, how)

    monkeypatch.setattr(lives.fcntl, "flock", look_before)
    begin(tmp_path, "w1").end()
    assert seen == [False]


def test_a_worker_that_gets_no_lock_works_all_the_same_and_is_known_to_nobody(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError("no locks here")

    with monkeypatch.context() as patch:
        patch.setattr(lives.fcntl, "flock", refuse)
        ours = begin(tmp_path, "w1")
    assert not Lives(tmp_path).is_over("w1")
    ours.end()
    nowhere = begin(tmp_path / "missing", "w1")
    nowhere.end()


def test_what_the_dead_have_left_is_removed_long_after_and_nothing_of_the_living(tmp_path):
    ours = begin(tmp_path, "alive")
    die(begin(tmp_path, "dead"))
    (tmp_path / "folder").mkdir()
    times = iter((0.0, KEEP_S - 1, KEEP_S))
    watcher = Lives(tmp_path, clock=lambda: next(times))
    for _ in range(2):
        watcher.tidy()
        assert watcher.is_over("dead"), "others are to see it, too"
    watcher.tidy()
    assert not watcher.is_over("dead")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alive.life", "folder"]
    ours.end()
    Lives(None).tidy()


# -- where the files are


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that counts as one in memory."""
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/sda1 {tmp_path} ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n")
    monkeypatch.setattr(lives, "MEMORY", tmp_path)
    monkeypatch.setattr(lives, "MOUNTS", mounts)
    return tmp_path


def are_seen(memory: Path) -> bool:
    """Whether one worker of this host sees that another is over."""
    ours = Lives.of_this_host()
    ours.begin("w1")
    if ours._lock is not None:
        die(ours)
    return Lives.of_this_host().is_over("w1")


def test_a_folder_that_is_removed_below_its_workers_leaves_nothing_to_do(tmp_path):
    """logind removes what a user has in there once he logs out: upkeep went no further, again and again."""
    folder = tmp_path / "workers"
    folder.mkdir()
    ours = begin(folder, "w1")
    shutil.rmtree(folder)
    ours.tidy()
    assert not ours.is_over("w1")
    ours.end()


def test_workers_of_one_host_and_user_see_each_other(memory):
    assert are_seen(memory)


@pytest.mark.parametrize("kind", ["ext4", "overlay", "nfs4", "9p", "virtiofs", "fuse.lxcfs"])
def test_a_folder_that_may_be_copied_or_shared_between_hosts_proves_nothing(memory, kind):
    with lives.MOUNTS.open("a") as mounts:
        mounts.write(f"none {memory} {kind} rw 0 0\n")
    assert not are_seen(memory)


def test_without_a_folder_in_memory_nothing_is_known(memory, caplog):
    with caplog.at_level("INFO"):
        lives.MOUNTS.write_text("tmpfs /run tmpfs rw 0 0\n")
        assert not are_seen(memory)
        lives.MOUNTS.unlink()  # as on macOS
        assert not are_seen(memory)
    assert "cannot be seen" in caplog.text


@pytest.mark.parametrize("whose", ["link", "open to others", "a file"])
def test_a_folder_that_somebody_else_may_have_made_proves_nothing(memory, whose):
    folder = memory / f"genqueue-workers-{os.getuid()}"
    if whose == "link":
        (memory / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(memory / "elsewhere")
    elif whose == "a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777)
    assert not are_seen(memory)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such folder")
def test_on_linux_the_folder_is_there():
    """Every distribution and every container has it; a host without says so in the log, and beats decide there."""
    ours = Lives.of_this_host()
    assert ours._folder is not None
