"""Streams through gateways, while everything behind and before them is killed in turn: `make test-crash`."""
