#!/bin/sh
# What the project needs on this machine: `hack/setup.sh python` makes the Python environment, `hack/setup.sh packages`
# installs Debian packages; both unless said. Says what it installs before it does; does nothing if all is there.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
PATH=$PATH:/usr/sbin:/sbin

docker_answers() { command -v docker >/dev/null && docker version >/dev/null 2>&1; }
wants() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }

# Installs packages by $1 (sudo, or nothing). What was interrupted before is finished first: apt-get refuses until then.
apt_install() {
    as_root=$1
    shift
    echo "setup: installing Debian packages: $*"
    $as_root env DEBIAN_FRONTEND=noninteractive dpkg --force-confdef --force-confold --configure -a </dev/null
    $as_root apt-get update -q
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@" </dev/null
}

packages() {
    missing=""
    docker=no
    if docker_answers; then docker=yes; fi
    wants java openjdk-17-jre-headless
    wants mvn maven
    if [ $docker = no ]; then
        # Images without Docker.
        wants buildah buildah
        wants mmdebstrap mmdebstrap
    fi
    # Which Kubernetes is taken: as in e2e/cluster/provider.py.
    cluster=${SLUICE_CLUSTER:-}
    [ -n "$cluster" ] || if [ $docker = yes ]; then cluster=kind; else cluster=embedded; fi
    if [ "$cluster" = embedded ]; then
        wants containerd containerd
        wants runc runc
        wants iptables iptables
        wants conntrack conntrack
        wants ip iproute2
        [ -x /usr/lib/cni/bridge ] || [ -x /opt/cni/bin/bridge ] || missing="$missing containernetworking-plugins"
    fi
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null; then
        echo "setup: these Debian packages (or what they hold) are missing:$missing" >&2
        echo "setup: this machine has no apt-get: install them its own way, or use Docker" >&2
        exit 1
    fi
    sudo=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "setup: run as root: apt-get install$missing" >&2; exit 1; }
        sudo=sudo
    fi
    # shellcheck disable=SC2086
    apt_install "$sudo" $missing
}

find_python() {
    for program in python3.11 python3.12 python3.13 python3; do
        if command -v $program >/dev/null && $program -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v $program
            return
        fi
    done
}

python() {
    stamp=$(cat requirements-dev.lock pyproject.toml | sha256sum | cut -d ' ' -f 1)
    if [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.stamp" 2>/dev/null)" = "$stamp" ]; then
        return
    fi
    program=$(find_python)
    if [ -z "$program" ]; then
        missing=" python3 python3-venv"
        echo "setup: there is no Python 3.11 or newer with its venv module"
        if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
            echo "setup: install$missing" >&2
            exit 1
        fi
        apt_install "" python3 python3-venv
        program=$(find_python)
        [ -n "$program" ] || { echo "setup: Debian's Python is older than 3.11: install a newer one" >&2; exit 1; }
    fi
    echo "setup: making the Python environment $venv from requirements-dev.lock"
    # One whose making was killed has a Python without pip.
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$program" -m venv --clear "$venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps -e .
    echo "$stamp" >"$venv/.stamp"
}

case "${1:-all}" in
    python) python ;;
    packages) packages ;;
    all) packages; python ;;
    *) echo "usage: hack/setup.sh [python|packages]" >&2; exit 2 ;;
esac
