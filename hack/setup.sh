#!/bin/sh
# What the project needs on this machine: `hack/setup.sh python` makes the Python environment, `hack/setup.sh packages`
# installs Debian packages; both unless said. Says what it installs before it does; does nothing if all is there.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
PATH=$PATH:/usr/sbin:/sbin

docker_answers() { command -v docker >/dev/null && docker version >/dev/null 2>&1; }
wants() { command -v "$1" >/dev/null 2>&1 || missing="$missing $2"; }

packages() {
    missing=""
    wants java openjdk-17-jre-headless
    wants mvn maven
    if [ -z "${SLUICE_KUBECONFIG:-}" ] && ! docker_answers; then
        # Images without Docker, and the Kubernetes of e2e/cluster/embedded.
        wants buildah buildah
        wants mmdebstrap mmdebstrap
        wants containerd containerd
        wants runc runc
        wants iptables iptables
        wants conntrack conntrack
        wants ip iproute2
        [ -x /usr/lib/cni/bridge ] || missing="$missing containernetworking-plugins"
        wants gcc gcc
        [ -e /usr/include/stdlib.h ] || missing="$missing libc6-dev"
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
    echo "setup: installing Debian packages:$missing"
    $sudo apt-get update -q
    # shellcheck disable=SC2086
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
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
        echo "setup: installing Debian packages:$missing"
        apt-get update -q
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3 python3-venv
        program=$(find_python)
        [ -n "$program" ] || { echo "setup: Debian's Python is older than 3.11: install a newer one" >&2; exit 1; }
    fi
    echo "setup: making the Python environment $venv from requirements-dev.lock"
    [ -x "$venv/bin/python" ] || "$program" -m venv "$venv"
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
