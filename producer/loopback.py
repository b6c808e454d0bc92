"""Where it is listened: whether that is this machine's alone, and why it cannot be."""

import ipaddress
import os


def is_loopback(host: str) -> bool:
    """Whether that name or address leads to this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def why_not(error: OSError) -> str:
    """An address cannot be listened at. Python's own words repeat it; those of a name server have a number < 0."""
    return (os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror) or str(error)
