"""``python -m sluice.api.generate [--check]``: writes what is made from the models, or says what is out of date.

Made are ``crds/``, the Helm chart's copy of them, and ``docs/reference/``, the page of the metrics included.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import yaml

from sluice.api.crd import crds

ROOT: Final = Path(__file__).resolve().parents[3]
"""The checkout."""
_HEADER: Final = "# Generated from operator/sluice/api by `python -m sluice.api.generate`; do not edit.\n"
_REFERENCE: Final = ("sluice.api.reference", "sluice.observability.reference")
"""Modules whose ``pages()`` make ``docs/reference/``. By name: models know nothing of the layers above theirs, and this
command, which knows all that is generated, is no part of what they are used for."""
_NO_KINDS: Final = "\nBesides: the operator's [metrics](metrics.md).\n"


@cache
def generated() -> Mapping[Path, str]:
    """Every generated file, its path relative to the checkout and its text (made once: models don't change)."""
    files: dict[Path, str] = {}
    for name, body in crds().items():
        files[Path("crds") / name] = _HEADER + _yaml(body)
        files[Path("helm/sluice/templates/crds") / name] = _HEADER + chart_template(body)
    folder = Path("docs/reference")
    for module in _REFERENCE:
        pages: dict[str, str] = import_module(module).pages()
        files |= {folder / name: text for name, text in pages.items()}
    files[folder / "README.md"] += _NO_KINDS
    return files


def chart_template(body: dict[str, Any]) -> str:
    """A CRD as a template of the chart: upgraded with it, kept when it is uninstalled.

    Helm's own ``crds/`` folder is never upgraded, hence ``templates/``. Deleting a CRD deletes every object of its
    kind, hence the policy.
    """
    body = body | {"metadata": body["metadata"] | {"annotations": {"helm.sh/resource-policy": "keep"}}}
    # Braces in descriptions would be taken for template actions.
    text = _yaml(body).replace("{{", '{{ "{{" }}')
    return "{{- if .Values.crds.install }}\n" + text + "{{- end }}\n"


def stale(root: Path) -> list[Path]:
    """Generated files that are missing, differ, or are left over, relative to ``root``."""
    files = generated()
    differing = [path for path, text in files.items() if not _has(root / path, text)]
    folders = {path.parent for path in files}
    left_over = [
        found.relative_to(root)
        for folder in folders
        for found in sorted((root / folder).glob("*"))
        if found.relative_to(root) not in files
    ]
    return sorted([*differing, *left_over])


def write(root: Path) -> list[Path]:
    """Bring the generated files up to date; returns those that were changed or removed."""
    files = generated()
    changed = stale(root)
    for path in changed:
        if path in files:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(files[path], encoding="utf-8")
        else:
            (root / path).unlink()
    return changed


def _has(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _yaml(body: dict[str, Any]) -> str:
    return yaml.safe_dump(body, sort_keys=False, width=120, allow_unicode=True)


def main() -> int:
    """Entry of the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m sluice.api.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if something is out of date")
    arguments = parser.parse_args()
    if arguments.check:
        out_of_date = stale(ROOT)
        for path in out_of_date:
            print(f"{path} is out of date: run python -m sluice.api.generate", file=sys.stderr)
        return 1 if out_of_date else 0
    for path in write(ROOT):
        print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
