"""The scripts are files, and have to come along with an installation."""

from pathlib import Path
from zipfile import ZipFile

import producer.ledger
from tests import wheel


def test_a_wheel_holds_every_script(tmp_path):
    packed = set(ZipFile(wheel.build(tmp_path)).namelist())
    scripts = {path.name for path in (Path(producer.ledger.__file__).parent / "lua").glob("*.lua")}
    assert scripts
    assert {f"producer/ledger/lua/{name}" for name in scripts} <= packed
