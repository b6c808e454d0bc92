"""A command on a pseudo-terminal, as a person has it before them."""

import contextlib
import os
import pty
import signal
import subprocess
import threading


class Terminal:
    """A command on a pseudo-terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._fd, theirs = pty.openpty()
        self.process = subprocess.Popen(
            command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.seen = ""
        self._came = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, words: str, *, after: str = "") -> None:
        """Until the words have come; after: behind these ones."""

        def have_come() -> bool:
            return words in self.seen[max(self.seen.find(after), 0) :] and after in self.seen

        with self._came:
            came = self._came.wait_for(have_come, timeout=300)
        assert came, f"{words!r} did not come: {self.seen!r}"

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def interrupt(self) -> None:
        """What Ctrl-C does; the terminal is not the process's controlling one, so that it is sent by hand."""
        self.process.send_signal(signal.SIGINT)

    def interrupt_at_the_prompt(self) -> None:
        """Ctrl-C, also where it comes just before a read begins, which it does not end: a line then does."""
        self.interrupt()
        self.type("\n")

    def exit_code(self) -> int:
        code = self.process.wait(100)
        self._reader.join(100)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()  # it may have processes of its own to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(60)
        self.process.kill()
        self.process.wait()
        self._reader.join(100)
        os.close(self._fd)

    def _read(self) -> None:
        try:
            while chunk := os.read(self._fd, 4096):
                with self._came:
                    self.seen += chunk.decode(errors="replace")
                    self._came.notify_all()
        except OSError:  # the process has gone
            pass
