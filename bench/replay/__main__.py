"""``python -m bench.replay``: a broker, the inputs, and the contestants in turns; medians go into a table and a file.

Exactly-once copies by Sluice's worker against raw produce of the same batches from memory (the limit), a
consume/produce loop on librdkafka, and kcat piped into kcat; and, filtered by key and marked with headers, the worker
against the loop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import confluent_kafka
from rich.console import Console
from rich.table import Table

from bench.replay.inputs import INPUTS, Input, delete_topics, fill, make_topics
from sluice import __version__
from sluice.versions import DEFAULT_KAFKA_VERSION
from tests.support.kafka import start_cluster

RESULTS: Final = Path(__file__).parents[1] / "results" / "replay.json"
CONTESTANTS: Final = ("limit", "sluice", "librdkafka", "kcat")
OPENED: Final = ("sluice-opened", "librdkafka-opened")
"""They filter by key and set headers, which kcat can't; on the first input only."""
_TIMEOUT: Final = 1800


@dataclass(frozen=True)
class Run:
    """One copy: wall-clock seconds without start-up, CPU seconds and memory of the client's processes."""

    seconds: float
    cpu_seconds: float
    rss_mb: float | None


def copy(contestant: str, bootstrap: str, source: str, target: str) -> Run:
    """Copy a topic once.

    Raises:
        RuntimeError: the contestant failed; its words are in the text.
    """
    if contestant == "kcat":
        command = (
            f"kcat -q -C -b {bootstrap} -t {source} -o beginning -e -X isolation.level=read_committed -K:"
            f" | kcat -P -b {bootstrap} -t {target} -z lz4 -K: -X linger.ms=50 -X batch.num.messages=100000"
        )
        program = ["sh", "-c", command]
    else:
        program = [sys.executable, "-m", "bench.replay.contestants", contestant, bootstrap, source, target]
    started = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(program, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        out.seek(0)
        err.seek(0)
        if status:
            raise RuntimeError(f"{contestant} failed: {err.read().decode()[-2000:]}")
        said = json.loads(out.read().splitlines()[-1]) if contestant != "kcat" else {"seconds": wall, "rss_mb": None}
    return Run(said["seconds"], usage.ru_utime + usage.ru_stime, said["rss_mb"])


def measure(bootstrap: str, kind: Input, records: int, rounds: int) -> dict[str, list[Run]]:
    """Each contestant ``rounds`` times, in turns, after a round that warms the broker."""
    source = f"source-{kind.name.replace(' ', '-')}"
    make_topics(bootstrap, [source])
    fill(bootstrap, source, kind, records)
    runs: dict[str, list[Run]] = defaultdict(list)
    for number in range(rounds + 1):
        for contestant in (*CONTESTANTS, *(OPENED if kind is INPUTS[0] else ())):
            target = f"{source}-{contestant}-{number}"
            make_topics(bootstrap, [target])
            run = copy(contestant, bootstrap, source, target)
            delete_topics(bootstrap, [target])
            if number:
                runs[contestant].append(run)
    delete_topics(bootstrap, [source])
    return dict(runs)


def figures(results: dict[str, dict[str, list[Run]]]) -> dict[str, float]:
    """The figures that are promised, from medians; only those whose inputs were measured."""

    def median(kind: str, contestant: str, what: str = "seconds") -> float:
        return statistics.median(getattr(run, what) for run in results[kind][contestant])

    found: dict[str, float] = {}
    well = [kind.name for kind in INPUTS if kind.well_batched and kind.name in results]
    if well:
        found["exact_vs_limit"] = min(median(kind, "limit") / median(kind, "sluice") for kind in well)
    if (main := INPUTS[0].name) in results:
        for peer in ("librdkafka", "kcat"):
            found[f"exact_vs_{peer}"] = median(main, peer) / median(main, "sluice")
            ratio = median(main, "sluice", "cpu_seconds") / median(main, peer, "cpu_seconds")
            found[f"cpu_per_gb_vs_{peer}"] = ratio
        found["opened_vs_librdkafka"] = median(main, "librdkafka-opened") / median(main, "sluice-opened")
    if (bad := INPUTS[-1].name) in results:
        found["badly_batched_vs_librdkafka"] = median(bad, "librdkafka") / median(bad, "sluice")
    ours = [run for runs in results.values() for name in ("sluice", OPENED[0]) for run in runs.get(name, ())]
    found["worker_rss_mb"] = max(run.rss_mb or 0.0 for run in ours)
    return {name: round(value, 3) for name, value in found.items()}


def table(results: dict[str, dict[str, list[Run]]], counts: dict[str, int]) -> Table:
    """Medians for people."""
    shown = Table("INPUT", "RECORDS", "BY", "SECONDS", "RECORDS/S", "CPU S", "RSS MB", box=None)
    for column in shown.columns[3:]:
        column.justify = "right"
    for kind, runs in results.items():
        for contestant, of in runs.items():
            seconds = statistics.median(run.seconds for run in of)
            shown.add_row(
                kind,
                f"{counts[kind]:,}",
                contestant,
                f"{seconds:.2f}",
                f"{counts[kind] / seconds:,.0f}",
                f"{statistics.median(run.cpu_seconds for run in of):.2f}",
                f"{max(run.rss_mb for run in of if run.rss_mb):.0f}" if contestant != "kcat" else "",
            )
    return shown


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=__doc__)
    parser.add_argument("--records", type=int, default=3_000_000, help="records of the first input; others are shares")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--input", action="append", choices=[kind.name for kind in INPUTS])
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if shutil.which("kcat") is None:
        raise SystemExit("kcat is missing: install it (apt-get install kcat); a peer isn't left out")
    console = Console()
    results: dict[str, dict[str, list[Run]]] = {}
    counts: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = {"message.max.bytes": str(2 * 1024 * 1024), "log.retention.check.interval.ms": "3600000"}
        with start_cluster(Path(folder) / "kafka", config=config) as kafka:
            for kind in INPUTS:
                if options.input and kind.name not in options.input:
                    continue
                counts[kind.name] = int(options.records * kind.share)
                console.print(f"{kind.name}: {counts[kind.name]:,} records …")
                results[kind.name] = measure(kafka.bootstrap, kind, counts[kind.name], options.rounds)
    console.print(table(results, counts))
    written: dict[str, Any] = {
        "figures": figures(results),
        "inputs": {
            kind: {"records": counts[kind], "runs": {by: [asdict(run) for run in of] for by, of in runs.items()}}
            for kind, runs in results.items()
        },
        "versions": {
            "sluice": __version__,
            "kafka": DEFAULT_KAFKA_VERSION,
            "librdkafka": confluent_kafka.libversion()[0],
            "python": platform.python_version(),
        },
        "machine": {"cores": os.cpu_count(), "load": os.getloadavg()[0]},
    }
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(json.dumps(written, indent=2) + "\n")
    for name, value in written["figures"].items():
        console.print(f"{name} = {value}")
    console.print(f"written to {os.path.relpath(options.output)}")


if __name__ == "__main__":
    main()
