"""The page's files: what a browser is told of them, and that they are all there is."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from producer.contract import BrokerUnavailable, WaitTimeout
from producer.gateway.page_files import FOLDER, HEADERS, PATHS

from .conftest import Door, OpenDoor
from .test_entrance import bearer, keys_file

SCRIPTS = sorted(FOLDER.glob("*.js"))


async def test_each_file_comes_with_its_headers_and_once(open_door: OpenDoor, tmp_path: Path):
    """Also where there are keys: who has none is asked by the page."""
    door = await open_door(api_keys=keys_file(tmp_path, "alice"))
    for path, file in PATHS.items():
        answer = await door.http.get(path, headers={"Host": "gpu.example"})
        assert (answer.status_code, answer.content) == (200, file.read_bytes())
        assert HEADERS.items() <= dict(answer.headers).items()
        again = await door.http.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    for path in ("/page/", "/page/none.js", "/page/../app.py", "/page/%2e%2e/app.py", "/index.html"):
        assert (await door.http.get(path, headers=bearer("alice"))).status_code == 404
        assert (await door.http.get(path)).status_code == 401


async def test_without_keys_it_is_for_this_machine(door: Door):
    assert (await door.http.get("/")).status_code == 200
    assert (await door.http.get("/", headers={"Host": "rebound.example"})).status_code == 403


async def test_it_can_be_left_out(open_door: OpenDoor):
    door = await open_door(page=False)
    assert [(await door.http.get(path)).status_code for path in PATHS] == [404] * len(PATHS)


def test_the_policy_lets_nothing_in_from_elsewhere():
    policy = dict(part.split(" ", 1) for part in HEADERS["content-security-policy"].split("; "))
    assert (
        policy["default-src"]
        == policy["frame-ancestors"]
        == policy["base-uri"]
        == policy["form-action"]
        == "'none'"
    )
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "'none'")
    assert HEADERS["x-content-type-options"] == "nosniff"


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.references: list[str] = []
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        self.inline += [tag] if tag == "style" or (tag == "script" and "src" not in given) else []
        self.references += [given[name] or "" for name in ("src", "href") if name in given]


def test_what_it_is_made_of_is_here_and_in_no_line():
    page = _Page((FOLDER / "index.html").read_text())
    assert page.inline == []
    assert {f"/{reference}" for reference in page.references} <= PATHS.keys()
    imported = {name for script in SCRIPTS for name in re.findall(r'from "\./([\w.]+)"', script.read_text())}
    assert imported <= {script.name for script in SCRIPTS}
    # Each file is of use.
    styles_and_scripts = {path for path in PATHS if path.endswith((".js", ".css", ".svg"))}
    assert styles_and_scripts == {f"/page/{name}" for name in imported} | {f"/{name}" for name in page.references}
    assert not [script.name for script in SCRIPTS if "://" in script.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_no_script_reads_markup(script: Path):
    words = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|\beval\b|new Function|setHTML"
    )
    assert not re.search(words, script.read_text())
    assert len(script.read_text().splitlines()) < 200


def test_the_page_asks_again_after_what_passes():
    """What a gateway says at its end is 503 in JSON: taken for the answer, it would be shown as an error."""
    script = (FOLDER / "stream.js").read_text()
    away = next(line for line in script.splitlines() if line.startswith("const AWAY"))
    for code in (BrokerUnavailable.code, WaitTimeout.code, "gateway_ending"):
        assert f'"{code}"' in away
