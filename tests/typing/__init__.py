"""Examples that mypy is to accept, and such that it is to refuse: unit/producer/test_typing.py runs it on them."""
