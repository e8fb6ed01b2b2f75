"""``make clean-cache``: removes all that was downloaded and built, so that the next run starts from nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from hack.builders import Buildah
from hack.cache import ROOT, cache_folder


def removable(folder: Path, home: Path, tree: Path) -> bool:
    """Whether a folder can be a cache of ours alone: ``$SLUICE_CACHE`` may have been set to anything."""
    return not any(kept.is_relative_to(folder) for kept in (home, tree))


def main() -> int:
    """Remove the cache folder."""
    folder = cache_folder().resolve()
    if not removable(folder, Path.home().resolve(), ROOT.resolve()):
        print(f"clean-cache: {folder} holds more than a cache: set SLUICE_CACHE to one of its own", file=sys.stderr)
        return 1
    print(f"removing {folder}", flush=True)
    if shutil.which("buildah"):
        Buildah().sweep()  # its containers may be mounted
        if os.geteuid() != 0:
            # Files of images belong to other users: only in buildah's user namespace they are ours.
            subprocess.run(["buildah", "unshare", "rm", "-rf", str(folder / "buildah")])
    try:
        shutil.rmtree(folder)
    except OSError as error:
        print(f"clean-cache: {error}: does something still use {folder}? Then try again after it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
