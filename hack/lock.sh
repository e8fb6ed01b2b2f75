#!/bin/sh
# Resolves requirements.lock (what the operator image holds) and requirements-dev.lock, with hashes and without the
# address of any registry. $1: version of uv.
set -eu
cd "$(dirname "$0")/.."
tool="${SLUICE_CACHE:-$HOME/.cache/sluice}/uv-$1"
if [ ! -x "$tool/bin/uv" ]; then
    echo "lock: installing uv $1 in $tool"
    "${VENV:-.venv}/bin/python" -m venv "$tool"
    "$tool/bin/pip" install -q --disable-pip-version-check "uv==$1"
fi
# Links of a local package folder would get into the files.
unset PIP_FIND_LINKS UV_FIND_LINKS || true
compile() {
    "$tool/bin/uv" pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --custom-compile-command "make lock" "$@"
}
compile --upgrade pyproject.toml -o requirements.lock
# The same versions of what both hold.
compile --upgrade --constraint requirements.lock --extra dev pyproject.toml -o requirements-dev.lock
