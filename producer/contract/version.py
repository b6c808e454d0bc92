"""The version of genqueue that runs here, for messages. The wire contract has a version of its own, which is 1."""

from importlib import metadata

try:
    VERSION = metadata.version("genqueue")
except metadata.PackageNotFoundError:  # the sources were put on the path, and not installed
    VERSION = "of an unknown version"
