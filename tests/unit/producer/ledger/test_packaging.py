"""What is no module has to come along with an installation: Lua scripts, and the files of the gateway's page."""

from pathlib import Path
from zipfile import ZipFile

import producer
from tests import wheel


def test_a_wheel_holds_every_script_and_every_page(tmp_path):
    packed = set(ZipFile(wheel.build(tmp_path)).namelist())
    for folder in ("ledger/lua", "gateway/page"):
        names = {path.name for path in (Path(producer.__file__).parent / folder).iterdir()}
        assert names
        assert {f"producer/{folder}/{name}" for name in names} <= packed
