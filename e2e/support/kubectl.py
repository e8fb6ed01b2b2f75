"""kubectl as users have it, and waiting by watch instead of by sleeping."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

Body = dict[str, Any]


class KubectlError(Exception):
    """kubectl failed; the text is what it said."""


class WaitTimeoutError(Exception):
    """What was waited for didn't come in time; the text says what was there instead."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl against one Kubernetes cluster; ``namespace`` is the default of every call."""

    binary: Path
    kubeconfig: Path
    namespace: str = "default"

    def within(self, namespace: str) -> Kubectl:
        """The same, in another namespace."""
        return replace(self, namespace=namespace)

    def command(self, *arguments: str) -> list[str]:
        """The whole command line, for showing it or for running it in another way."""
        return [str(self.binary), f"--kubeconfig={self.kubeconfig}", f"--namespace={self.namespace}", *arguments]

    def attempt(
        self, *arguments: str, stdin: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl and return whatever comes: for calls that are meant to be refused."""
        return subprocess.run(
            self.command(*arguments),
            input=stdin,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "KUBECTL_KUBERC": "false"},
        )

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl and return its output.

        Raises:
            KubectlError: it failed.
        """
        done = self.attempt(*arguments, stdin=stdin, timeout=timeout)
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise KubectlError(f"kubectl {' '.join(arguments)}: {said}")
        return done.stdout

    def apply(self, what: Path | Body | Iterable[Body], *options: str) -> str:
        """Apply a folder, a file, or objects."""
        if isinstance(what, Path):
            return self.run("apply", "-f", str(what), *options)
        return self.run("apply", "-f", "-", *options, stdin=documents(what))

    def get(self, kind: str, name: str) -> Body | None:
        """One object, or None if there is none of this name."""
        said = self.run("get", kind, name, "-o", "json", "--ignore-not-found")
        return json.loads(said) if said.strip() else None

    def list(self, kind: str, *, labels: Mapping[str, str] | None = None, everywhere: bool = False) -> list[Body]:
        """Objects of a kind (or of several, comma-separated)."""
        options = ["-l", ",".join(f"{key}={value}" for key, value in labels.items())] if labels else []
        if everywhere:
            options.append("--all-namespaces")
        found: list[Body] = json.loads(self.run("get", kind, "-o", "json", *options))["items"]
        return found

    def delete(
        self, kind: str, *names: str, wait: bool = True, timeout: float = 120, options: Sequence[str] = ()
    ) -> None:
        """Delete objects; absent ones are fine."""
        self.run("delete", kind, *names, "--ignore-not-found", f"--wait={str(wait).lower()}", *options, timeout=timeout)

    def raw(self, path: str, timeout: float = 30) -> str:
        """GET of a path of the API server, such as a pod's port behind its proxy."""
        return self.run("get", "--raw", path, timeout=timeout)

    def watch(self, kind: str, name: str | None = None, *, timeout: float) -> Iterator[Body]:
        """What is there and then every change, as watch events (``type``, ``object``), until ``timeout`` seconds.

        The watch is begun anew when it breaks (an API server that restarts).
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            arguments = ["get", kind, "--watch", "--output-watch-events", "-o", "json", "--request-timeout=0"]
            if name:
                # By field selector: waiting for an object that isn't there yet is no error.
                arguments += [f"--field-selector=metadata.name={name}"]
            with subprocess.Popen(
                self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as process:
                assert process.stdout is not None
                found: queue.Queue[Body | None] = queue.Queue()
                reader = threading.Thread(target=_read_events, args=(process.stdout, found), daemon=True)
                reader.start()
                try:
                    while (left := deadline - time.monotonic()) > 0:
                        try:
                            event = found.get(timeout=left)
                        except queue.Empty:
                            return
                        if event is None:
                            break
                        yield event
                finally:
                    process.kill()
                    reader.join()
            time.sleep(0.5)  # the watch broke: the API server may be away

    def wait(
        self,
        kind: str,
        name: str,
        wanted: Callable[[Body | None], bool],
        *,
        timeout: float = 120,
        seen: Callable[[Body | None], None] | None = None,
    ) -> Body | None:
        """Wait until ``wanted`` holds for the object (None: it doesn't exist) and return it.

        ``seen`` is told of every state on the way.

        Raises:
            WaitTimeoutError: it didn't hold within ``timeout`` seconds; the text has the object's last conditions.
        """
        deadline = time.monotonic() + timeout
        current: Body | None = None
        while (left := deadline - time.monotonic()) > 0:
            # A watch says nothing of what was deleted just before it began, hence a look now and then.
            current = self.get(kind, name)
            if seen:
                seen(current)
            if wanted(current):
                return current
            for event in self.watch(kind, name, timeout=min(left, 20)):
                current = None if event["type"] == "DELETED" else event["object"]
                if seen:
                    seen(current)
                if wanted(current):
                    return current
        raise WaitTimeoutError(f"{kind} {self.namespace}/{name} after {timeout:.0f} s: {summary(current)}")

    def wait_ready(
        self, kind: str, name: str, *, timeout: float = 180, seen: Callable[[Body | None], None] | None = None
    ) -> Body:
        """Wait until the object's condition Ready is true for its present generation."""
        found = self.wait(kind, name, is_ready, timeout=timeout, seen=seen)
        assert found is not None
        return found

    def wait_condition(
        self, kind: str, name: str, type_: str, status: str, *, reason: str | None = None, timeout: float = 120
    ) -> Body:
        """Wait for a condition with this status (and reason)."""

        def wanted(body: Body | None) -> bool:
            found = condition(body, type_)
            return found.get("status") == status and (reason is None or found.get("reason") == reason)

        found = self.wait(kind, name, wanted, timeout=timeout)
        assert found is not None
        return found

    def wait_gone(self, kind: str, name: str, *, timeout: float = 60) -> None:
        """Wait until the object doesn't exist any more."""
        self.wait(kind, name, lambda body: body is None, timeout=timeout)


def documents(what: Body | Iterable[Body]) -> str:
    """Objects as YAML documents."""
    return yaml.safe_dump_all([what] if isinstance(what, dict) else list(what), sort_keys=False)


def condition(body: Body | None, type_: str) -> Mapping[str, Any]:
    """A condition of an object by its type; empty if there is none."""
    found = ((body or {}).get("status") or {}).get("conditions") or []
    return next((c for c in found if c["type"] == type_), {})


def is_ready(body: Body | None) -> bool:
    """Whether Ready is true, and speaks of the present generation."""
    if body is None:
        return False
    ready = condition(body, "Ready")
    said_of = ready.get("observedGeneration", (body.get("status") or {}).get("observedGeneration"))
    return ready.get("status") == "True" and said_of in (None, body["metadata"].get("generation"))


def summary(body: Body | None) -> str:
    """An object's state in a line: the conditions, and their sentences."""
    if body is None:
        return "doesn't exist"
    conditions = (body.get("status") or {}).get("conditions") or []
    if not conditions:
        return "has no conditions yet"
    return "; ".join(
        f"{c['type']}={c['status']} ({c.get('reason', '')}) {c.get('message', '')}".strip() for c in conditions
    )


def _read_events(stream: Iterable[str], found: queue.Queue[Body | None]) -> None:
    """Pass on kubectl's watch events, one JSON object a line; None at their end."""
    for line in stream:
        found.put(json.loads(line))
    found.put(None)
