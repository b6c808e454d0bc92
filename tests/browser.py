"""Headless Chromium, for pages that JavaScript fills: the rendered DOM, and pictures for people to look at.

Knows how to start the browser and how to read tables; knows nothing of the dashboard. It reaches loopback only.
"""

import subprocess
from html.parser import HTMLParser
from pathlib import Path

from .outside import need

BINARIES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL = "apt-get install -y chromium fonts-noto-cjk"
PAGE_TIME_MS = 2_000
"""Virtual time in which a page may run its timers. It stands still while a request is under way."""
TIMEOUT_S = 200


class Browser:
    """One Chromium profile. Each call is a process of its own, which has ended when the call returns."""

    def __init__(self, binary: str, profile: Path, *, dark: bool = False) -> None:
        self._command = [
            *(
                binary,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ),
            *("--disable-background-networking", "--disable-component-update", "--no-proxy-server"),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={PAGE_TIME_MS}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        ]

    def dom(self, url: str) -> str:
        """The page as HTML, after its scripts have run."""
        return self._run("--dump-dom", url)

    def screenshot(self, url: str, path: Path, *, width: int = 1280, height: int = 900) -> None:
        """A PNG of the page."""
        self._run(f"--screenshot={path}", f"--window-size={width},{height}", "--hide-scrollbars", url)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([*self._command, *arguments], capture_output=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
        return done.stdout.decode()


def open_browser(profile: Path, *, dark: bool = False) -> Browser:
    """A browser that prefers light or dark pages, or a skipped test that names what to install.

    On CI a missing browser is a failure.
    """
    return Browser(need(*BINARIES, install=INSTALL), profile, dark=dark)


def table_rows(html: str, table_id: str) -> list[list[str]]:
    """The text of each cell in the body of a table, white space folded."""
    reader = _TableReader(table_id)
    reader.feed(html)
    return [[" ".join(cell.split()) for cell in row] for row in reader.rows if row]


class _TableReader(HTMLParser):
    def __init__(self, table_id: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._table_id = table_id
        self._in_table = self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._in_table = ("id", self._table_id) in attrs
        elif self._in_table and tag == "tr":
            self.rows.append([])
        elif self._in_table and tag == "td":
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._in_table = False
        elif tag == "td":
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_table and self._in_cell:
            self.rows[-1][-1] += data
