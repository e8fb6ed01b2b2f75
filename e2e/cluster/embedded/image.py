"""A one-layer image archive, written without any image tool."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from pathlib import Path

PAUSE = "localhost/sluice/pause:1"


def write_archive(path: Path, image: str, files: Mapping[str, Path], command: list[str]) -> None:
    """Write ``image`` as an archive of ``docker save``'s kind; ``files``: path in the image → file here (all 0755)."""
    layer = _tar({name: file.read_bytes() for name, file in files.items()}, 0o755)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = json.dumps(
        {
            "architecture": machine,
            "os": "linux",
            "config": {"Entrypoint": command, "User": "65535:65535"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        }
    ).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [image], "Layers": ["layer.tar"]}]).encode()
    path.write_bytes(_tar({"config.json": config, "layer.tar": layer, "manifest.json": manifest}, 0o644))


def names(archive: Path) -> list[str]:
    """Names of the images in an archive of ``docker save``'s kind; none if it is of another kind."""
    with tarfile.open(archive) as tar:
        try:
            manifest = tar.extractfile("manifest.json")
        except KeyError:
            return []
        return [name for entry in json.load(manifest) for name in entry["RepoTags"] or []] if manifest else []


def _tar(files: Mapping[str, bytes], mode: int) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()
