"""Two ways to build the same Dockerfile: Docker where it answers, else buildah on a base made by mmdebstrap."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hack.cache import cache_folder, locked


@dataclass(frozen=True)
class Base:
    """What an image stands on."""

    name: str
    packages: tuple[str, ...]
    """Debian packages of the base that is made where there is no Docker; the Dockerfile names the other one."""


JAVA = Base("java-17", ("openjdk-17-jre-headless", "ca-certificates"))
PYTHON = Base("python-3.11", ("python3", "python3-venv", "ca-certificates"))
DEBIAN = "bookworm"
UNUSED_FILES = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def run(command: Sequence[str], what: str) -> str:
    """Run a command; its output. Raises RuntimeError with what it said if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    if done.returncode != 0:
        raise RuntimeError(f"{what} failed ({done.returncode}):\n$ {' '.join(command)}\n{done.stdout[-6000:]}")
    return done.stdout


class Builder(Protocol):
    """Builds a Dockerfile in a context folder into an archive that `ctr images import` and `kind load` take."""

    name: str

    def sweep(self) -> None:
        """Remove what a killed build left; no other build may run meanwhile."""

    def build(self, tag: str, base: Base, dockerfile: Path, context: Path, arguments: Mapping[str, str]) -> None: ...

    def save(self, tag: str, archive: Path) -> None: ...


class Docker:
    """Docker's own build, on the base that the Dockerfile names (pulled from its registry)."""

    name = "docker"

    def sweep(self) -> None:
        pass  # its daemon does that

    def build(self, tag: str, base: Base, dockerfile: Path, context: Path, arguments: Mapping[str, str]) -> None:
        command = ["docker", "build", "-q", "-t", tag, "-f", str(dockerfile)]
        for key, value in arguments.items():
            command += ["--build-arg", f"{key}={value}"]
        run([*command, str(context)], f"building {tag}")

    def save(self, tag: str, archive: Path) -> None:
        run(["docker", "save", "-o", str(archive), tag], f"saving {tag}")


class Buildah:
    """buildah without a daemon, registry or namespaces (``--isolation chroot``); its store is in the cache folder."""

    name = "buildah"

    def __init__(self) -> None:
        store = cache_folder() / "buildah"
        self._command = ["buildah", "--root", str(store / "storage"), "--runroot", str(store / "run")]

    def sweep(self) -> None:
        # One that can't be removed takes space, and nothing else: no reason not to build.
        subprocess.run([*self._command, "rm", "--all"], capture_output=True)

    def build(self, tag: str, base: Base, dockerfile: Path, context: Path, arguments: Mapping[str, str]) -> None:
        before = self._id(tag)
        command = [*self._command, "bud", "--isolation", "chroot", "--layers", "--pull-never", "-q", "-t", tag]
        command += ["--build-arg", f"BASE={self._base(base)}"]
        for key, value in arguments.items():
            command += ["--build-arg", f"{key}={value}"]
        run([*command, "-f", str(dockerfile), str(context)], f"building {tag}")
        if before not in (None, self._id(tag)):
            run([*self._command, "rmi", str(before)], f"removing the former {tag}")

    def save(self, tag: str, archive: Path) -> None:
        run([*self._command, "push", "-q", tag, f"docker-archive:{archive}:{tag}"], f"saving {tag}")

    def _base(self, base: Base) -> str:
        tag = f"localhost/sluice/base-{base.name}:{DEBIAN}-1"
        with locked(f"base-{base.name}"):
            if self._id(tag) is not None:
                return tag
            archive = self._bootstrap(base)
            container = run([*self._command, "from", "scratch"], "making a container").strip()
            try:
                run([*self._command, "add", "-q", container, str(archive), "/"], f"unpacking {archive}")
                run([*self._command, "config", "--cmd", "[]", container], f"configuring {tag}")
                run([*self._command, "commit", "-q", container, tag], f"committing {tag}")
            finally:
                run([*self._command, "rm", container], "removing a container")
        return tag

    def _id(self, tag: str) -> str | None:
        command = [*self._command, "inspect", "--type", "image", "--format", "{{.FromImageID}}", tag]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else None

    def _bootstrap(self, base: Base) -> Path:
        archive = cache_folder() / f"base-{base.name}-{DEBIAN}.tar"
        if archive.exists():
            return archive
        print(f"making a Debian {DEBIAN} with {', '.join(base.packages)} (about a minute) …", flush=True)
        half = archive.with_suffix(".half.tar")
        half.unlink(missing_ok=True)
        command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(base.packages)}"]
        command += [f"--dpkgopt=path-exclude={path}" for path in UNUSED_FILES]
        # Java's installation puts a link there.
        command.append('--setup-hook=mkdir -p "$1/usr/share/man/man1"')
        run([*command, DEBIAN, str(half)], f"making the base {base.name}")
        half.rename(archive)
        return archive


def docker_answers() -> bool:
    """Whether there is a Docker with a daemon behind it; one that hangs doesn't count."""
    try:
        return subprocess.run(["docker", "version"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def find_builder() -> Builder:
    """Docker if its daemon answers, else buildah. Raises RuntimeError that says what is missing if there is neither."""
    if docker_answers():
        return Docker()
    missing = [program for program in ("buildah", "mmdebstrap") if shutil.which(program) is None]
    if missing:
        raise RuntimeError(f"no Docker daemon answers, and {' and '.join(missing)} isn't installed: run `make setup`")
    return Buildah()
