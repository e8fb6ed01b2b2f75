"""The cache folder outside of the tree, and how something is put there whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    """``$SLUICE_CACHE``, or ``~/.cache/sluice``; made if it is missing."""
    folder = Path(os.environ.get("SLUICE_CACHE") or Path.home() / ".cache" / "sluice")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def work_folder(name: str) -> Iterator[Path]:
    """A folder beside the others in which ``name`` is made; to be called with a lock on it held.

    What a killed run left of its own is removed first.
    """
    for left in cache_folder().glob(f".{name}.work-*"):
        shutil.rmtree(left, ignore_errors=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}.work-", dir=cache_folder()))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock ``name`` of the cache: two runs at once don't make the same thing twice."""
    with (cache_folder() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def cached_folder(name: str, stamp: str, fill: Callable[[Path], None]) -> Path:
    """The folder ``name`` of the cache, filled by ``fill`` unless it is there already with the same ``stamp``.

    ``fill`` works in a temporary folder beside it, which is renamed when it is complete: a run killed half-way leaves
    nothing that is taken for the real thing.
    """
    folder = cache_folder() / name
    mark = folder / ".stamp"
    with locked(name):
        if mark.is_file() and mark.read_text() == stamp:
            return folder
        with work_folder(name) as work:
            fill(work)
            (work / ".stamp").write_text(stamp)
            if folder.exists():
                shutil.rmtree(folder)
            work.chmod(0o755)
            work.rename(folder)
    return folder
