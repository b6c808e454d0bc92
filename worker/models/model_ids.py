"""What is given in place of a model's name, and what to do instead: an id of the Hugging Face Hub, or a folder."""

import re
from pathlib import Path

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def explain_name(name: str, paths_file: Path) -> str | None:
    """What to do about a name that is an id or a folder, for people; None for what may be a name.

    paths_file: the model paths file, there or not, from which the folder of a line in it counts.
    """
    if "/" not in name:
        return None
    if not _ID.fullmatch(name) or Path(name).expanduser().exists():
        return f"{name!r} is a path and no name: give it as --model-path {name}"
    own_name = name.partition("/")[2]
    folder = Path("models", own_name)
    # A relative path in the file counts from the file.
    is_near = paths_file.parent.absolute().parent == Path.cwd()
    line = Path("..", folder) if is_near else folder.absolute()
    return (
        f"{name!r} is a model's id on the Hugging Face Hub, and nothing is downloaded here. Download it once:\n"
        f"  hf download {name} --local-dir {folder}\n"
        f"and give --model-path {folder}; or add this line to {paths_file}, and give --model-name {own_name}:\n"
        f"  {own_name}: {line}"
    )
