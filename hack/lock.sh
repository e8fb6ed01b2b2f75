#!/bin/sh
# Resolves requirements.lock (what the operator image holds) and requirements-dev.lock, with hashes and without the
# address of any registry. $1: version of uv.
set -eu
cd "$(dirname "$0")/.."
tool="${SLUICE_CACHE:-$HOME/.cache/sluice}/uv-$1"
# Asked rather than looked for: an installation that was killed leaves files too.
if ! "$tool/bin/uv" --version >/dev/null 2>&1; then
    echo "lock: installing uv $1 in $tool"
    "${VENV:-.venv}/bin/python" -m venv --clear "$tool"
    "$tool/bin/python" -m pip install -q --disable-pip-version-check "uv==$1"
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
