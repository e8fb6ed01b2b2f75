"""The demo's steps, one method each, in the order in which they are run."""

from __future__ import annotations

import datetime
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Final

from demo import check, data, flights, quickstart
from demo.progress import Command, Step, Steps, begin
from demo.quickstart import CLUSTER, GROUP, NAMESPACE, REPLAY, REPLAY_NAME, SOURCE, TARGET
from e2e.support import environment, kafka
from e2e.support.environment import Environment
from e2e.support.kubectl import Body, Kubectl, condition

READY_TIMEOUT: Final = 300.0
REPLAY_TIMEOUT: Final = 300.0
LAG_METRIC: Final = "sluice_consumer_group_lag_records"
CONSUMED: Final = 10_000
"""Records that the group consumes, so that there is a lag to be seen."""
MONTH_START: Final = datetime.datetime(2013, 2, 1, tzinfo=flights.NEW_YORK)
MONTH_END: Final = datetime.datetime(2013, 3, 1, tzinfo=flights.NEW_YORK)
"""The range of ``examples/quickstart/replay/february.yaml``."""


class DemoError(Exception):
    """The demo didn't show what it is there to show; the text says what was found instead."""


class Demo:
    """One run. Each step leaves behind what a killed run's successor finds and goes on from."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._building: Command
        self._environment: Environment
        self._kubectl: Kubectl
        self._events: Future[list[flights.Event]]
        self._source: list[kafka.Read] = []

    def run(self) -> None:
        """Run all steps.

        Raises:
            StepFailedError: one failed.
        """
        with ThreadPoolExecutor(1) as background:
            self._events = background.submit(flights.load)
            # Beside the build of Kubernetes: one mostly compiles, the other mostly fetches and writes.
            self._building = begin(environment.images_command())
            try:
                self.kubernetes()
                self.images()
            finally:
                self._building.terminate()
            self.operator()
            self.manifests()
            self.ready()
            self.produce()
            self.replay()
            self.group()
            self.judge()
            self.what_now_runs()

    def kubernetes(self) -> None:
        """A local Kubernetes."""
        with self._steps.step("Kubernetes") as step:
            step.say("looking for it")
            step.command(environment.up_command())
            self._environment = environment.connect()
            self._kubectl = self._environment.kubectl.within(NAMESPACE)
            nodes = self._kubectl.list("nodes")
            version = nodes[0]["status"]["nodeInfo"]["kubeletVersion"]
            step.result(f"{version}, {len(nodes)} node(s), at {self._environment.node_address}")

    def images(self) -> None:
        """The two images, built where their inputs have changed, and put where the nodes find them."""
        with self._steps.step("Images") as step:
            step.follow(self._building)
            step.command(environment.load_command())
            for name in environment.image_names():
                step.result(name)

    def operator(self) -> None:
        """The operator, by its chart."""
        with self._steps.step("Operator") as step:
            step.say("helm upgrade --install")
            self._environment.install()
            step.result(f"release {environment.RELEASE} in namespace {environment.SYSTEM_NAMESPACE}")

    def manifests(self) -> None:
        """The quickstart, all of it at once."""
        with self._steps.step("Apply the quickstart") as step:
            self._environment.claim(NAMESPACE)
            overlay = quickstart.write_overlay(self._environment.node_address)
            for line in self._kubectl.run("apply", "-k", str(overlay)).splitlines():
                step.result(line)

    def ready(self) -> None:
        """Until every object of the quickstart says Ready, which needs a Kafka that serves."""
        with self._steps.step("Wait until ready") as step:
            deadline = time.monotonic() + READY_TIMEOUT
            # One after the other: the cluster first, which the others wait for.
            for kind, name in quickstart.names():
                left = max(10.0, deadline - time.monotonic())
                self._kubectl.wait_ready(kind, name, timeout=left, seen=partial(_show, step, f"{kind} {name}"))
            status = self._cluster()["status"]
            step.result(f"Kafka {status['version']}, {status['brokers']} brokers, cluster id {status['clusterId']}")
            step.result(f"from outside: {kafka.bootstrap_servers(self._cluster(), 'outside')} (TLS)")

    def produce(self) -> None:
        """The flights, each exactly once, also if an earlier run was killed while producing them."""
        with self._steps.step("Produce the flights of 2013") as step:
            step.say("reading the data")
            events = self._events.result()
            if any(kafka.end_offsets(self._client("auditor"), SOURCE).values()):
                step.say("looking for what is there already")
                self._source = self._read(SOURCE)
            todo = data.missing(events, self._source)
            begun = time.monotonic()
            if todo:
                said = partial(self._producing, step, len(todo))
                data.produce(self._client("airport"), SOURCE, todo, said)
                seconds = time.monotonic() - begun
                step.result(
                    f"{len(todo):,} events in {seconds:.1f} s ({len(todo) / seconds:,.0f}/s), keyed by tail number, "
                    "timestamp = scheduled departure"
                )
                self._source = self._read(SOURCE)
            else:
                step.result(f"all {len(events):,} events are there already: nothing is produced twice")
            unkeyed = sum(event.key is None for event in events)
            step.result(
                f"{unkeyed:,} flights have no tail number: they have no key, so no order among themselves, and the "
                f"producer spreads them ({data.placed(self._source)})"
            )

    def replay(self) -> None:
        """One month, by a ReplayJob."""
        with self._steps.step("Replay February") as step:
            if ended_badly(former := self._kubectl.get("replayjob", REPLAY_NAME)):
                # It stays as it ended. A new one goes on from what it committed: the ledger keeps it from doubling.
                step.result(f"the ReplayJob of an earlier run is {_phase(former)}, and is made anew")
                self._kubectl.delete("replayjob", REPLAY_NAME)
            step.say(f"kubectl apply -f {REPLAY.relative_to(quickstart.ROOT)}")
            self._kubectl.apply(REPLAY)
            body = self._kubectl.wait(
                "replayjob", REPLAY_NAME, _has_ended, timeout=REPLAY_TIMEOUT, seen=partial(_show_replay, step)
            )
            assert_ended_well(body)
            status = (body or {})["status"]
            plan, progress = status["plan"], status.get("progress", {})
            step.result(
                f"{plan['offsets']:,} offsets in {len(plan['partitions'])} partitions, frozen {plan['plannedAt']} "
                f"(plan {plan['hash']})"
            )
            step.result(f"{status['phase']}: {progress.get('records', 0):,} records in {_duration(status)}")

    def group(self) -> None:
        """A consumer that is behind, and who says so."""
        with self._steps.step("Consumer group") as step:
            client = self._client("auditor")
            offsets = kafka.committed_offsets(client, GROUP)
            taken = sum(offset for (topic, _), offset in offsets.items() if topic == TARGET)
            if (wanted := CONSUMED - taken) > 0:
                step.say(f"consuming {wanted:,} records as {GROUP}")
                came = kafka.consume_as_group(client, GROUP, TARGET, wanted)
                if came != wanted:
                    raise DemoError(f"only {came:,} of {wanted:,} records of {TARGET} came within a minute")
            ends, offsets = kafka.end_offsets(client, TARGET), kafka.committed_offsets(client, GROUP)
            taken = sum(offsets.get((TARGET, partition), 0) for partition in ends)
            behind = sum(ends.values()) - taken
            step.say(f"waiting until the operator sees that {GROUP} is {behind:,} offsets behind")
            labels = {"namespace": NAMESPACE, "group": GROUP, "topic": TARGET}
            # A marker of the replay's transactions is an offset too, and needn't count where it comes next.
            lag = self._environment.wait_for_metric(
                LAG_METRIC, labels, lambda value: behind - len(ends) <= value <= behind
            )
            step.result(f"{GROUP} has consumed {taken:,} offsets and is {lag:,.0f} behind: {LAG_METRIC}")
            step.result("(nearly all of them are records; the markers of the replay's transactions are offsets too)")

    def judge(self) -> None:
        """The replay, judged by a client that knows nothing of Sluice."""
        with self._steps.step("Check the replay") as step:
            step.say("reading source and target")
            target = self._read(TARGET)
            expected = flights.within(self._events.result(), MONTH_START, MONTH_END)
            findings = check.judge(expected, self._source, target, MONTH_START, MONTH_END)
            for finding in findings:
                step.result(("holds: " if finding.holds else "DOESN'T HOLD: ") + finding.text)
            if not all(finding.holds for finding in findings):
                raise DemoError("\n".join(finding.text for finding in findings if not finding.holds))

    def what_now_runs(self) -> None:
        """Say what there is to look at, and what to try next."""
        with self._steps.step("Look at what runs"):
            there = self._kubectl.run("get", f"{quickstart.KINDS},replayjobs,pods")
            shell = environment.shell_setup()
        console = self._steps.console
        console.print("\nWhat now runs:", highlight=False)
        console.print(there, markup=False, highlight=False)
        console.print("Next, try:", highlight=False)
        for line in (
            *shell,
            f"kubectl -n {NAMESPACE} describe replayjob {REPLAY_NAME}",
            f"kubectl -n {NAMESPACE} get topics,users.sluice.dev,consumergroups",
            f"kubectl sluice -n {NAMESPACE} status",
            f"kubectl sluice -n {NAMESPACE} replay plan {REPLAY_NAME}",
            f"kubectl -n {NAMESPACE} delete pod {CLUSTER}-nodes-1-0   # a broker goes, clients don't notice",
            f"kubectl delete namespace {NAMESPACE}   # everything of the quickstart",
            "make demo-down   # everything",
        ):
            console.print(f"  {line}", markup=False, highlight=False)

    def _cluster(self) -> Body:
        body = self._kubectl.get("messagingcluster", CLUSTER)
        if body is None:
            raise DemoError(f"MessagingCluster {CLUSTER} is gone")
        return body

    def _client(self, user: str) -> kafka.Config:
        return kafka.client_config(self._kubectl, f"{user}-kafka", kafka.bootstrap_servers(self._cluster(), "outside"))

    def _read(self, topic: str) -> list[kafka.Read]:
        return kafka.read_topic(self._client("auditor"), topic)

    @staticmethod
    def _producing(step: Step, total: int, acknowledged: int) -> None:
        step.say(f"{acknowledged:,} of {total:,} acknowledged")


def _phase(body: Body | None) -> str | None:
    return ((body or {}).get("status") or {}).get("phase")


def _has_ended(body: Body | None) -> bool:
    return _phase(body) in ("Completed", "AlreadyCompleted") or ended_badly(body)


def ended_badly(body: Body | None) -> bool:
    """Whether a ReplayJob has ended without having replayed: nothing but a new one will."""
    return _phase(body) in ("Failed", "Refused")


def assert_ended_well(body: Body | None) -> None:
    """Raise what the ReplayJob says unless it completed.

    Raises:
        DemoError: it failed or was refused.
    """
    if ended_badly(body):
        raise DemoError(f"the ReplayJob is {_phase(body)}: {condition(body, 'Ready').get('message', '')}")


def _show(step: Step, name: str, body: Body | None) -> None:
    step.say(f"{name}: {condition(body, 'Ready').get('message') or 'not looked at yet'}")


def _show_replay(step: Step, body: Body | None) -> None:
    status = (body or {}).get("status") or {}
    progress = status.get("progress")
    if progress:
        step.say(f"{progress['percent']} %, {progress['records']:,} records")
    else:
        step.say(condition(body, "Ready").get("message") or "waiting for the plan")


def _duration(status: Body) -> str:
    if "startTime" not in status or "completionTime" not in status:
        return "no time"
    begun, ended = (datetime.datetime.fromisoformat(status[name]) for name in ("startTime", "completionTime"))
    return f"{(ended - begun).total_seconds():.0f} s"


TOTAL_STEPS: Final = 10
