"""Plain lines that tell what is being done and how long it took: also readable in a log without a terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(text: str) -> None:
    """One line, at once."""
    print(text, flush=True)


@contextmanager
def step(what: str, *, reminder: float = 30) -> Iterator[None]:
    """Say what begins, remind every ``reminder`` seconds that it goes on, and say how long it took."""
    begun = time.monotonic()
    done = threading.Event()

    def remind() -> None:
        while not done.wait(reminder):
            say(f"    … {what}: {time.monotonic() - begun:.0f} s so far")

    say(f"  {what} …")
    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    say(f"  {what}: {time.monotonic() - begun:.1f} s")
