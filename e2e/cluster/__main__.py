"""``python -m e2e.cluster up|down|status|load|kubeconfig|binaries``: the local Kubernetes from the command line."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from e2e.cluster.embedded import binaries
from e2e.cluster.progress import say
from e2e.cluster.provider import NAMES, choose
from e2e.cluster.state import ClusterError, kubeconfig_path
from hack.cache import locked


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit code is 0 if all is well, 1 if not."""
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--provider", choices=NAMES, help="default: $SLUICE_CLUSTER, else kind or embedded")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", parents=[shared], help="make the cluster, or find it running")
    up.add_argument("--nodes", type=int, choices=(1, 3), help="default: as many as there are, or one")
    commands.add_parser("down", parents=[shared], help="remove it and everything in it")
    commands.add_parser("status", parents=[shared], help="what runs; exit code 1 if it doesn't")
    commands.add_parser("kubeconfig", parents=[shared], help="print the path of the kubeconfig")
    commands.add_parser("binaries", parents=[shared], help="build or find the programs of the cluster and of the tests")
    load = commands.add_parser("load", parents=[shared], help="make images known to the nodes")
    load.add_argument("archives", nargs="+", type=Path, metavar="IMAGE_ARCHIVE")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    try:
        provider = choose(options.provider)
        match options.command:
            case "up":
                with locked("cluster"):
                    provider.up(options.nodes)
                say(f"Kubernetes is up ({provider.name}, {time.monotonic() - begun:.0f} s)")
                say(f"  kubeconfig: {kubeconfig_path()}\n  node ports answer at {provider.node_address}")
            case "down":
                with locked("cluster"):
                    provider.down()
                what = "Kubernetes" if provider.made_here else "what the demo put into Kubernetes"
                say(f"{what} is removed ({provider.name}, {time.monotonic() - begun:.0f} s)")
            case "binaries":
                provider.programs()
                binaries.for_integration_tests()
            case "load":
                for archive in options.archives:
                    provider.load(archive)
                    say(f"loaded {archive}")
            case "kubeconfig":
                print(kubeconfig_path())
            case "status":
                lines = provider.status()
                print("\n".join(lines) or f"no cluster ({provider.name})")
                return 0 if lines and not any("DEAD" in line for line in lines) else 1
    except (ClusterError, RuntimeError, OSError) as error:
        print(f"python -m e2e.cluster {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
