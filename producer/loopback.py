"""Whether an address is this machine's alone."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether that name or address leads to this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
