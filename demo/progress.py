"""Steps on a terminal: what is being done now, how long each took, and where the output of a failed one is."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.status import Status

_HEARTBEAT: Final = 10.0
"""Seconds between two lines about a step that goes on, where there is no terminal to redraw."""
_TAIL: Final = 15


Command = subprocess.Popen[str]


def begin(arguments: Sequence[str]) -> Command:
    """Start a command whose output waits for the step that follows it."""
    return subprocess.Popen(list(arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class StepFailedError(Exception):
    """A step failed; the text says why."""

    def __init__(self, step: str, why: str, log: Path) -> None:
        super().__init__(why)
        self.step = step
        self.why = why
        self.log = log


class CommandFailedError(Exception):
    """A command that a step ran failed; the text has its last lines."""


@dataclass
class Step:
    """One step while it runs."""

    name: str
    log: Path
    console: Console
    live: Status
    started: float = field(default_factory=time.monotonic)
    results: list[str] = field(default_factory=list)
    _last_line: float = field(default_factory=time.monotonic)
    _last_said: str = ""

    def say(self, detail: str) -> None:
        """What the step does right now: redrawn on a terminal, else a line every ten seconds."""
        if self.console.is_terminal:
            self.live.update(f"{self.name}: {detail}  [dim]{self.seconds:.0f} s[/dim]")
        elif detail != self._last_said and time.monotonic() - self._last_line > _HEARTBEAT:
            self.console.print(f"    … {detail} ({self.seconds:.0f} s)", markup=False, highlight=False)
            self._last_line = time.monotonic()
            self._last_said = detail

    def result(self, text: str) -> None:
        """A line that stays: what came of the step."""
        self.results.append(text)

    @property
    def seconds(self) -> float:
        """Seconds since the step began."""
        return time.monotonic() - self.started

    def command(self, arguments: Sequence[str]) -> None:
        """Run a command; as `follow`."""
        self.follow(begin(arguments))

    def follow(self, process: Command) -> None:
        """Wait for a command; all of its output goes to the step's log, the last line of it is shown meanwhile.

        Raises:
            CommandFailedError: it ended with an error.
        """
        tail: deque[str] = deque(maxlen=_TAIL)
        command = " ".join(map(str, process.args))  # type: ignore[arg-type]  # begin() gave it a list
        with self.log.open("a") as log, process:
            log.write(f"$ {command}\n")
            for line in process.stdout or ():
                log.write(line)
                log.flush()
                if line.strip():
                    tail.append(line.rstrip())
                    self.say(_shortened(line.strip()))
        if process.returncode:
            raise CommandFailedError(
                f"{command} ended with {process.returncode}:\n" + "\n".join(f"    {line}" for line in tail)
            )


class Steps:
    """The steps of one run, numbered and timed; each has a log file of its own in ``folder``."""

    def __init__(self, console: Console, folder: Path, total: int) -> None:
        self.console = console
        self.folder = folder
        self.total = total
        self.times: list[tuple[str, float]] = []
        folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Run the block as the next step.

        Raises:
            StepFailedError: the block raised something; its text is kept.
        """
        number = len(self.times) + 1
        log = self.folder / f"{number:02d}-{name.lower().replace(' ', '-')}.log"
        log.write_text("")
        if not self.console.is_terminal:
            self.console.print(f"{number:2d}/{self.total} {name}", highlight=False)
        status = self.console.status(name)
        step = Step(name=name, log=log, console=self.console, live=status)
        try:
            with status if self.console.is_terminal else contextlib.nullcontext():
                yield step
        except Exception as error:
            self.console.print(f" [red]✗[/red] {number:2d}/{self.total} {name}  [dim]{step.seconds:.1f} s[/dim]")
            with log.open("a") as opened:
                opened.write(f"{type(error).__name__}: {error}\n")
            raise StepFailedError(name, str(error) or type(error).__name__, log) from error
        self.times.append((name, step.seconds))
        self.console.print(
            f" [green]✓[/green] {number:2d}/{self.total} {name}  [dim]{step.seconds:.1f} s[/dim]", highlight=False
        )
        for text in step.results:
            self.console.print(f"         {text}", markup=False, highlight=False)


def _shortened(line: str, width: int = 100) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
