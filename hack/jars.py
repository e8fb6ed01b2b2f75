"""Kafka's jars, resolved from Maven Central as ``broker_image/pom.xml`` says: for the broker image and for tests."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from hack.cache import ROOT, cached_folder

POM = ROOT / "broker_image" / "pom.xml"


def kafka_jars(version: str) -> Path:
    """Folder with the jars of Kafka ``version``; the first call takes about ten seconds.

    Raises RuntimeError with Maven's words if they can't be resolved.
    """

    def fill(folder: Path) -> None:
        if shutil.which("mvn") is None:
            raise RuntimeError("Kafka's jars are resolved by Maven, and there is no mvn: run `make setup`")
        print(f"resolving the jars of Kafka {version} (43 MB) …", flush=True)
        command = ["mvn", "-q", "-B", "-f", str(POM), f"-Dkafka.version={version}", "dependency:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0 or not any(folder.glob(f"kafka_2.13-{version}.jar")):
            raise RuntimeError(f"`{' '.join(command)}` failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")

    stamp = hashlib.sha256(POM.read_bytes()).hexdigest()
    return cached_folder(f"kafka-jars-{version}", stamp, fill)
