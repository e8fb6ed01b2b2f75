"""helm as users have it, on this project's chart."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

CHART: Final = Path(__file__).resolve().parents[2] / "helm" / "sluice"
KUBE_VERSION: Final = "--kube-version=1.35.4"
Values = dict[str, Any]
Body = dict[str, Any]

# libyaml's loader, where it is there: the CRDs are long.
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class HelmError(Exception):
    """helm failed; the text is what it said."""


class Helm:
    """helm with folders of its own, so that a user's plugins and repositories don't matter."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        self._rendered: dict[str, str] = {}
        homes = {f"HELM_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")}
        self._env = os.environ | homes

    def __call__(self, *arguments: str, values: Values | None = None) -> str:
        """Run helm and return its output.

        Raises:
            HelmError: it failed.
        """
        command = [str(self._binary), *arguments]
        if values:
            file = self._folder / "values.yaml"
            file.write_text(yaml.safe_dump(values), encoding="utf-8")
            command += ["--values", str(file)]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise HelmError(done.stdout + done.stderr)
        return done.stdout

    def template(self, values: Values | None = None) -> str:
        """What the template engine makes of the chart, for a release ``sluice`` in the namespace ``chart``."""
        return self("template", "sluice", str(CHART), "--namespace=chart", KUBE_VERSION, values=values)

    def render(self, values: Values | None = None) -> list[Body]:
        """The objects that an installation would make; rendered once for each set of values."""
        key = json.dumps(values or {})
        if key not in self._rendered:
            self._rendered[key] = self.template(values)
        return [body for body in yaml.load_all(self._rendered[key], _LOADER) if body]
