"""Builds the stand-in for the CUDA libraries, for the torch of the environment that runs this:
`python tests/cuda/stand_in/build.py`.

It is one library under the names of all those that torch links to. What torch wants of them and the sources here
do not have is in it too, and ends the process with its name when it is called.
"""

import re
import subprocess
import sys
import sysconfig
from collections import defaultdict
from pathlib import Path

SOURCES = Path(__file__).parent
PACKAGES = Path(sysconfig.get_path("purelib"))
HEADERS = PACKAGES / "triton/backends/nvidia/include"
LIBRARIES = PACKAGES / "nvidia/cu13/lib"
"""Where torch looks for the libraries that NVIDIA's packages bring."""

LIBRARY = re.compile(r"lib(cu|nccl|nv)\S*")
UNVERSIONED = re.compile(r"cu[A-Z]\w*|cusparseLt\w*|nccl\w*|nvshmem\w*")
MISSING = """#include <stdio.h>
#include <stdlib.h>
#define MISSING(name) void name(void) { fputs(#name " is not in the stand-in for CUDA\\n", stderr); abort(); }
"""


def main() -> None:
    """Compile, link, and put it where torch finds it."""
    LIBRARIES.mkdir(parents=True, exist_ok=True)
    names, named = wanted()
    objects = []
    for source in sorted(SOURCES.glob("*.cpp")):
        objects.append(LIBRARIES / f"{source.stem}.o")
        run("g++", "-std=c++20", "-O1", "-fPIC", f"-I{HEADERS}", "-c", source, "-o", objects[-1])
    had = set(run("nm", "--defined-only", "-j", *objects).split())
    missing = LIBRARIES / "missing.c"
    missing.write_text(MISSING + "".join(f"MISSING({name})\n" for name in sorted(set(named) - had)))
    versions = defaultdict(list)
    for name, version in named.items():
        versions[version].append(name)
    versions.pop("", None)
    script = LIBRARIES / "versions.map"
    script.write_text("".join(f"{version} {{ {'; '.join(them)}; }};\n" for version, them in versions.items()))
    run("gcc", "-fPIC", "-w", "-c", missing, "-o", missing.with_suffix(".o"))
    library = LIBRARIES / "libcudart.so.13"
    options = ["-shared", f"-Wl,--version-script={script}", "-Wl,-soname,libcudart.so.13"]
    run("g++", *options, *objects, missing.with_suffix(".o"), "-o", library, "-ldl")
    for name in names - {library.name}:
        (LIBRARIES / name).unlink(missing_ok=True)
        (LIBRARIES / name).symlink_to(library.name)
    sys.stdout.write(f"{library}: {len(had & set(named))} of {len(named)} functions that torch and Triton name\n")


def wanted() -> tuple[set[str], dict[str, str]]:
    """The libraries that torch links to; the functions that it and Triton name, each with its version or ""."""
    libraries, functions = {"libcuda.so.1"}, {}
    for file in (PACKAGES / "torch/lib").glob("*.so"):
        needed = re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", file))
        libraries |= {name for name in needed if LIBRARY.match(name)}
        for symbol in run("nm", "-D", "--undefined-only", "-j", file).split():
            name, _, version = symbol.partition("@")
            if LIBRARY.match(version) or version == "NVSHMEM" or (not version and UNVERSIONED.fullmatch(name)):
                functions[name] = version
    triton = (PACKAGES / "triton/backends/nvidia/driver.c").read_text()
    return libraries, functions | dict.fromkeys(re.findall(r"\b(cu[A-Z]\w+)\(", triton), "")


def run(*command: object) -> str:
    """What it prints; a failure ends the build."""
    return subprocess.run(list(map(str, command)), check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
