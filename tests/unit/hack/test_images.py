"""When an image is built again, and what a killed build leaves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from hack import images
from hack.builders import PYTHON, Base
from hack.cache import cached_folder
from hack.clean import removable
from hack.images import Image, ensure, inputs_hash


class Recorder:
    """A builder that only notes what it is asked for."""

    name = "recorder"

    def __init__(self) -> None:
        self.built: list[list[str]] = []
        self.swept = 0

    def sweep(self) -> None:
        self.swept += 1

    def build(self, tag: str, base: Base, dockerfile: Path, context: Path, arguments: Mapping[str, str]) -> None:
        self.built.append(sorted(str(file.relative_to(context)) for file in context.rglob("*") if file.is_file()))

    def save(self, tag: str, archive: Path) -> None:
        archive.write_text(tag)


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Image:
    monkeypatch.setattr(images, "OUTPUT", tmp_path / "build")
    monkeypatch.setattr(images, "ROOT", tmp_path)
    images.OUTPUT.mkdir()
    sources = tmp_path / "sources"
    (sources / "__pycache__").mkdir(parents=True)
    (sources / "main.py").write_text("print()")
    (sources / "__pycache__" / "main.pyc").write_text("1")
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    return Image("localhost/sluice/operator:1", PYTHON, tmp_path / "Dockerfile", {"sluice": sources}, {})


def test_an_image_is_built_once_and_again_when_its_sources_change(image: Image) -> None:
    builder = Recorder()
    first = ensure(image, builder)
    assert ensure(image, builder) == first
    assert builder.built == [["sluice/main.py"]]
    (image.files["sluice"] / "main.py").write_text("print(1)")
    assert ensure(image, builder)["inputs"] != first["inputs"]
    assert len(builder.built) == 2


def test_what_python_leaves_beside_the_sources_changes_nothing(image: Image) -> None:
    before = inputs_hash(image, "recorder")
    (image.files["sluice"] / "__pycache__" / "main.pyc").write_text("2")
    assert inputs_hash(image, "recorder") == before


def test_a_build_that_fails_leaves_nothing_that_is_taken_for_an_image(image: Image) -> None:
    class Broken(Recorder):
        def save(self, tag: str, archive: Path) -> None:
            archive.write_text("half")
            raise RuntimeError("no space left on device")

    with pytest.raises(RuntimeError, match="no space left"):
        ensure(image, Broken())
    assert not image.archive.exists()
    builder = Recorder()
    ensure(image, builder)
    assert builder.built


def test_a_folder_of_the_cache_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path))

    def killed(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_folder("jars", "1", killed)
    made = cached_folder("jars", "1", lambda folder: (folder / "whole").touch())
    assert sorted(path.name for path in made.iterdir()) == [".stamp", "whole"]
    assert cached_folder("jars", "1", killed) == made, "it is there: nothing is made again"


def test_what_a_killed_run_left_in_the_cache_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_CACHE", str(tmp_path))
    (tmp_path / ".jars.work-killed").mkdir()
    (tmp_path / ".jars-2.work-running").mkdir()
    cached_folder("jars", "1", lambda folder: None)
    assert {path.name for path in tmp_path.iterdir()} == {"jars", ".jars.lock", ".jars-2.work-running"}


def test_what_a_killed_build_left_is_removed_before_the_next(image: Image) -> None:
    builder = Recorder()
    (images.OUTPUT / ".context-killed" / "wheels").mkdir(parents=True)
    images._sweep(builder)
    assert list(images.OUTPUT.iterdir()) == []
    assert builder.swept == 1


@pytest.mark.parametrize(
    ("folder", "ours"), [("/home/ann/.cache/sluice", True), ("/home/ann", False), ("/", False), ("/src/sluice", False)]
)
def test_a_folder_that_holds_more_than_the_cache_is_not_removed(folder: str, ours: bool) -> None:
    assert removable(Path(folder), Path("/home/ann"), Path("/src/sluice")) is ours
