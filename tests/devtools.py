"""A tab of headless Chromium that is worked as a person works it: typed into, reloaded, looked at.

Over Chromium's own protocol and a pipe, so that no port and no package is needed. It reaches loopback only.
Source: the Chrome DevTools Protocol.
"""

import base64
import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .browser import BINARIES, INSTALL
from .outside import need

LONG_S = 120.0
KEYS = {"Enter": ("Enter", 13, "\r"), "Escape": ("Escape", 27, ""), "Tab": ("Tab", 9, "")}
SHIFT = 8


class Tab:
    """One page. What its console says of errors, and what its policy has blocked, is in `errors`."""

    def __init__(self, reading: int, writing: int) -> None:
        self.errors: list[str] = []
        self._reading, self._writing = reading, writing
        self._rest = b""
        self._last = 0
        self._session: dict[str, str] = {}
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Go there, or load it again."""
        self._call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def reload(self) -> None:
        """As F5 does."""
        self.run("window.isOld = true")
        self._call("Page.reload")
        self.until("!window.isOld && document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """What an expression gives, once it is there; as JSON has it."""
        said = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, script: str, limit_s: float = LONG_S) -> Any:
        """Wait for an expression to be true; what it gives then, or True for an element."""
        script = f"(() => {{ const found = {script}; return found instanceof Element ? true : found; }})()"
        deadline = time.monotonic() + limit_s
        while True:
            with contextlib.suppress(LookupError):  # the page is changing
                if value := self.run(script):
                    return value
            assert time.monotonic() < deadline, f"not within {limit_s} s: {script}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """Of the first element that fits; "" where none does."""
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''"))

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self._call("Input.insertText", text=text)

    def press(self, key: str, *, shift: bool = False) -> None:
        """One key."""
        name, code, text = KEYS[key]
        event = {"key": name, "code": name, "windowsVirtualKeyCode": code, "modifiers": SHIFT if shift else 0}
        self._call("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
        self._call("Input.dispatchKeyEvent", type="keyUp", **event)

    def click(self, selector: str) -> None:
        """On the first element that fits."""
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def look(self, *, width: int = 1280, height: int = 860, dark: bool = False) -> None:
        """In a window of that size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, path: Path) -> None:
        """A PNG of what is seen."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        """Raises LookupError where the page has gone meanwhile."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params, **self._session}
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._last:
                if "error" in said:
                    raise LookupError(said["error"])
                result: dict[str, Any] = said["result"]
                return result
            self._note(said)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], LONG_S)
            assert ready, "the browser says nothing"
            more = os.read(self._reading, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        one, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(one)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"]))
        elif event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            entry = params["entry"]
            self.errors.append(f"{entry['source']}: {entry['text']} {entry.get('url', '')}".strip())
        elif event.get("method") == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(json.dumps(params["args"]))


@contextlib.contextmanager
def open_tab(profile: Path) -> Iterator[Tab]:
    """A tab, or a skipped test that names what to install. On CI a missing browser is a failure."""
    binary = need(*BINARIES, install=INSTALL)
    command = [
        *(binary, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.*",
        f"--user-data-dir={profile}",
        "--remote-debugging-pipe",
    ]
    # Chromium reads file 3, and writes file 4.
    wired = ["sh", "-c", 'exec "$@" 3<&0 4>&1 </dev/null >/dev/null', "sh", *command]
    pipe = subprocess.PIPE
    with subprocess.Popen(wired, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Tab(process.stdout.fileno(), process.stdin.fileno())
        finally:
            process.terminate()
            process.wait(LONG_S)
