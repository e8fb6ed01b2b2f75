"""Builds the images: ``python -m hack.images [operator] [broker]``; both unless said.

Writes ``build/images/<image>.tar`` (for ``ctr -n k8s.io images import`` and ``kind load image-archive``) and
``build/images/images.json``: a list of ``{"name", "archive", "inputs"}``, where ``inputs`` is a hash that changes when
what the image is made of does. An image whose inputs haven't changed isn't built again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hack.builders import DEBIAN, JAVA, PYTHON, Base, Builder, find_builder
from hack.cache import ROOT, cached_folder, locked
from hack.jars import kafka_jars

sys.path.insert(0, str(ROOT / "operator"))

from sluice import __version__
from sluice.versions import KAFKA_VERSIONS

OUTPUT = ROOT / "build" / "images"
LOCK = ROOT / "requirements.lock"
REPOSITORY = "localhost/sluice"


@dataclass(frozen=True)
class Image:
    """An image and what it is made of."""

    name: str
    base: Base
    dockerfile: Path
    files: dict[str, Path]
    """Files and folders of the build context by their names there."""
    arguments: dict[str, str]

    @property
    def archive(self) -> Path:
        return OUTPUT / (self.name.removeprefix(f"{REPOSITORY}/").replace(":", "-") + ".tar")


def operator_image() -> Image:
    """The operator: locked wheels below, Sluice's sources on top."""
    folder = ROOT / "operator_image"
    files = {
        "requirements.lock": LOCK,
        "wheels": _wheels(),
        "sluice": ROOT / "operator" / "sluice",
        "entrypoint": folder / "entrypoint",
    }
    return Image(f"{REPOSITORY}/operator:{__version__}", PYTHON, folder / "Dockerfile", files, {})


def broker_image(kafka: str) -> Image:
    """A Kafka node of version ``kafka``."""
    folder = ROOT / "broker_image"
    files = {"jars": kafka_jars(kafka)}
    files |= {name: folder / name for name in ("entrypoint.sh", "archive-classes.sh", "log4j2.properties")}
    name = f"{REPOSITORY}/broker:{__version__}-kafka-{kafka}"
    return Image(name, JAVA, folder / "Dockerfile", files, {"KAFKA_VERSION": kafka})


def _wheels() -> Path:
    """Wheels of ``requirements.lock`` for the image's Python, each checked against its hash."""

    def fill(folder: Path) -> None:
        print("fetching the operator's dependencies …", flush=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--require-hashes"]
        command += ["--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "-r", str(LOCK)]
        done = subprocess.run([*command, "-d", str(folder)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"fetching the wheels of {LOCK.name} failed:\n{done.stdout}{done.stderr}")

    return cached_folder("wheels-3.11", hashlib.sha256(LOCK.read_bytes()).hexdigest(), fill)


def _contents(path: Path) -> Iterable[tuple[str, Path]]:
    """Files under ``path`` by relative name, without what Python and we leave beside them."""
    if path.is_file():
        yield "", path
        return
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts and file.name != ".stamp":
            yield str(file.relative_to(path)), file


def inputs_hash(image: Image, builder: str) -> str:
    """A hash over all that goes into the image."""
    digest = hashlib.sha256()

    def add(*words: str) -> None:
        digest.update("\0".join(words).encode() + b"\n")

    add(image.name, builder, DEBIAN, image.base.name, *image.base.packages, json.dumps(image.arguments, sort_keys=True))
    for name, path in {"Dockerfile": image.dockerfile, **image.files}.items():
        for relative, file in _contents(path):
            executable = str(bool(file.stat().st_mode & 0o100))
            add(name, relative, executable, hashlib.sha256(file.read_bytes()).hexdigest())
    return digest.hexdigest()[:16]


def _make_context(image: Image, context: Path) -> None:
    for name, path in image.files.items():
        for relative, file in _contents(path):
            target = context / name / relative if relative else context / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file, target)
            except OSError:  # the cache is on another file system
                shutil.copy(file, target)


def ensure(image: Image, builder: Builder) -> dict[str, str]:
    """Build ``image`` unless its archive is there already; its line of ``images.json``."""
    inputs = inputs_hash(image, builder.name)
    stamp = image.archive.with_suffix(".inputs")
    if image.archive.exists() and stamp.exists() and stamp.read_text() == inputs:
        print(f"{image.name}: unchanged")
    else:
        started = time.monotonic()
        stamp.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(prefix=".context-", dir=OUTPUT) as context:
            _make_context(image, Path(context))
            builder.build(image.name, image.base, image.dockerfile, Path(context), image.arguments)
        half = image.archive.with_suffix(".half")
        half.unlink(missing_ok=True)
        builder.save(image.name, half)
        half.rename(image.archive)
        stamp.write_text(inputs)
        size = image.archive.stat().st_size // 1_000_000
        print(f"{image.name}: built by {builder.name} in {time.monotonic() - started:.0f} s, {size} MB", flush=True)
    return {"name": image.name, "archive": str(image.archive.relative_to(ROOT)), "inputs": inputs}


def main(arguments: list[str]) -> int:
    """Build what ``arguments`` name."""
    wanted = set(arguments) or {"operator", "broker"}
    if unknown := wanted - {"operator", "broker"}:
        print(f"unknown image {', '.join(sorted(unknown))}: there are operator and broker", file=sys.stderr)
        return 2
    OUTPUT.mkdir(parents=True, exist_ok=True)
    try:
        with locked("images"):
            builder = find_builder()
            _sweep(builder)
            images = [operator_image()] if "operator" in wanted else []
            if "broker" in wanted:
                images += [broker_image(version) for version in KAFKA_VERSIONS]
            built = {line["name"]: line for line in (ensure(image, builder) for image in images)}
            _write_list(built)
    except RuntimeError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


def _sweep(builder: Builder) -> None:
    """Remove what a killed run left; with the lock held, nobody's build is disturbed."""
    for context in OUTPUT.glob(".context-*"):
        shutil.rmtree(context, ignore_errors=True)
    builder.sweep()


def _write_list(built: dict[str, dict[str, str]]) -> None:
    target = OUTPUT / "images.json"
    known = {line["name"]: line for line in json.loads(target.read_text())} if target.exists() else {}
    lines = [line for line in (known | built).values() if (ROOT / line["archive"]).exists()]
    half = target.with_suffix(".half")
    half.write_text(json.dumps(lines, indent=2) + "\n")
    half.rename(target)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
