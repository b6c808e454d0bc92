"""Keeps transformers' own progress bars out of logs and off terminals that stream text."""

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Within the block, loading and saving weights shows no bar. The setting is global to the process."""
    was_enabled = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            enable_progress_bar()
