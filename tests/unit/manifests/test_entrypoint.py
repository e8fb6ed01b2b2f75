"""What the broker image's entrypoint makes of the environment that a StatefulSet gives it."""

from __future__ import annotations

import subprocess
from pathlib import Path

ENTRYPOINT = Path(__file__).resolve().parents[3] / "broker_image" / "entrypoint.sh"


def started(folder: Path, options: str) -> list[str]:
    """The arguments with which the entrypoint starts Java, for which a script stands in, on a formatted disk."""
    data = folder / "data"
    files = {
        "server.properties": f"log.dirs={data}\nnode.id=7\n",
        "identity/cluster-id": "abc",
        "data/meta.properties": "cluster.id=abc\nnode.id=7\n",
        "bin/java": "#!/bin/sh\nprintf '%s\\n' \"$@\"\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "bin" / "java").chmod(0o755)
    environment = {
        "PATH": f"{folder}/bin:/usr/bin:/bin",
        "NODE_ID": "7",
        "PROCESS_ROLES": "broker",
        "KAFKA_HEAP_OPTS": "-Xms1g -Xmx1g",
        "KAFKA_JVM_OPTS": options,
        "KAFKA_PROPERTIES": str(folder / "server.properties"),
        "KAFKA_IDENTITY": str(folder / "identity"),
    }
    done = subprocess.run(["sh", str(ENTRYPOINT)], env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_options_of_java_are_passed_on_as_they_are_even_where_they_look_like_file_names(tmp_path: Path) -> None:
    (tmp_path / "-Dagent=one").write_text("")
    arguments = started(tmp_path, "-Dagent=* -Dpath=/etc/*")
    assert "-Dagent=*" in arguments
    assert "-Dpath=/etc/*" in arguments
    assert arguments[-2:] == ["kafka.Kafka", str(tmp_path / "server.properties")]
