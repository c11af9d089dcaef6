"""The course of a campaign: when to strike, when to resume, when to check, and the log of it all."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adafv.hardware import cpu_name
from adafv.pipeline.record.run_record import format_table, versions
from tests.campaign.data import Verdict, check, labels, write_input
from tests.campaign.faults import KINDS, Faults
from tests.campaign.job import Job
from tests.services import PROGRAMS, RayCluster, S3Server, descendants, parents, title, without_ray

DEADLINE = 300.0  # seconds without a row, while nothing is away, after which a job counts as hung, or a process as left
MOST_RUNS = 40  # of one output: more means that it doesn't come to an end
SINKS = (None, "400,8", "100,2")  # rows and seconds; None: the job's own
PHASES = {"starting": 3, "running": 6, "ending": 2}  # how often a run is first struck in each
INTRUDERS = 0.3  # of the outputs see a second job
REFUSAL = "is being written by run"


@dataclass(frozen=True)
class Settings:
    """What to do.

    Attributes:
        rows: of the input.
        first: kinds of kills to begin with, all in mid-run, before what and when are drawn.
        most_per_output: how often one output is struck at most, before it is left to end.
        mean_seconds: between two kills of a running job.
        below: rows whose answers are less confident have a second look; None: no row has.
        repeated: share of the rows that repeat others, whose labels they get.
    """

    kills: int
    seed: int = 0
    rows: int = 2000
    first: tuple[str, ...] = ()
    most_per_output: int = 20
    mean_seconds: float = 5.0
    below: float | None = None
    repeated: float = 0.0


@dataclass
class Summary:
    """What came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)  # runs of the job, by exit status
    verdicts: list[Verdict] = field(default_factory=list)
    intruders: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not self.problems and all(verdict.sound for verdict in self.verdicts)

    def table(self, settings: Settings, seconds: float) -> str:
        def counted(counter: Counter[str]) -> str:
            return ", ".join(f"{number} {name}" for name, number in sorted(counter.items())) or "none"

        lines = [("kills", f"{self.kills.total()}: {counted(self.kills)}"), ("runs", counted(self.ended))]
        lines += [("outputs finished", f"{len(self.verdicts)} of {settings.rows:,} rows")]
        lines += [("rows checked", f"{sum(verdict.rows for verdict in self.verdicts):,}")]
        for name in ("lost", "twice", "differing", "unknown"):
            lines.append((name, str(sum(len(getattr(verdict, name)) for verdict in self.verdicts))))
        lines += [("second jobs", counted(self.intruders)), ("problems", str(len(self.problems)))]
        lines += [("seed", str(settings.seed)), ("duration", f"{seconds / 60:.0f} min")]
        lines += [("versions", ", ".join(f"{name} {found}" for name, found in versions().items()))]
        lines += [("machine", f"{cpu_name()}, {os.cpu_count()} cores, Linux {platform.release()}")]
        return format_table("sound" if self.sound else "NOT SOUND", lines)


class Moment:
    """When the next kill of a job is due: in one of `PHASES`, after a while."""

    def __init__(self, phase: str, delay: float) -> None:
        self._phase, self._delay = phase, delay
        self._since = time.monotonic() if phase in ("starting", "struck") else None

    def has_come(self, job: Job) -> bool:
        if self._since is None and (job.share >= 0.9 if self._phase == "ending" else (job.rows or 0) > 0):
            self._since = time.monotonic()
        return self._since is not None and time.monotonic() - self._since >= self._delay


class Campaign:
    """One campaign. `say` takes the lines of its log; what the jobs say goes to files under `folder`."""

    def __init__(
        self, settings: Settings, folder: Path, store: S3Server, cluster: RayCluster, say: Callable[[str], None]
    ) -> None:
        self._settings, self._folder, self._store, self._cluster = settings, folder, store, cluster
        self._chance = random.Random(settings.seed)
        self._faults = Faults(store, cluster, self._chance)
        self._started, self._say = time.monotonic(), say
        self._first = list(settings.first)
        self._bucket = store.new_bucket()
        self.reference: list[dict[str, Any]] = []
        self._outputs = self._runs = 0
        self.summary = Summary()

    def prepare(self, label: Callable[[list[str]], int] | None = None) -> None:
        """The input, and the undisturbed run: one on the cluster, or what `label` makes of its arguments."""
        write_input(self._folder / "input", self._settings.rows, self._settings.seed, self._settings.repeated)
        self._store.upload(self._folder / "input", f"s3://{self._bucket}/in")
        started = time.monotonic()
        if label is None:
            job = self.start("reference")
            if job.process.wait(timeout=3600) or job.rejected:
                raise RuntimeError(f"the undisturbed run failed: {job.said[-3000:]}")
        elif label(self._arguments("reference")):
            raise RuntimeError("the undisturbed run failed")
        self.reference = labels(self._store, self._bucket, "reference")
        seconds = time.monotonic() - started
        self._log(f"the undisturbed run took {seconds:.0f} s for {len(self.reference):,} rows")
        if len({row["id"] for row in self.reference}) != self._settings.rows:
            raise RuntimeError(f"the undisturbed run labelled {len(self.reference)} rows of {self._settings.rows}")

    def run(self) -> Summary:
        """Until there have been enough kills."""
        try:
            while self.summary.kills.total() < self._settings.kills:
                self._outputs += 1
                self._output(f"out{self._outputs}")
        finally:
            self._faults.tend(wait=True)
        for line in self.summary.table(self._settings, time.monotonic() - self._started).splitlines():
            self._say(line)
        return self.summary

    def check(self, name: str) -> Verdict:
        """The output `name` against the undisturbed run's."""
        return check(labels(self._store, self._bucket, name), self.reference)

    def start(self, name: str, sink: str | None = None) -> Job:
        """A run of the job into the output `name`."""
        self._runs += 1
        environment = without_ray() | self._cluster.environment | self._store.environment
        environment |= {} if sink is None else {"ADAFV_SINK": sink}
        return Job(self._arguments(name), environment, self._folder / f"{name}-{self._runs}.log")

    def _arguments(self, name: str) -> list[str]:
        base = f"s3://{self._bucket}"
        inputs = [f"{base}/in/rows/{path.name}" for path in sorted((self._folder / "input" / "rows").iterdir())]
        arguments = [
            "--input", *inputs, "--image-root", f"{base}/in/images", "--output", f"{base}/{name}",
            "--keep", "0.1", "--batch-size", "8",
        ]  # fmt: skip
        if self._settings.below is not None:
            arguments += ["--escalate", "1.0", f"--escalate-below={self._settings.below}"]
        if self._settings.repeated and name != "reference":
            arguments += ["--duplicates", "reuse"]
        return arguments

    def _log(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        self._say(f"{minutes:3d}:{seconds:02d}  {text}")

    def _problem(self, text: str) -> None:
        self.summary.problems.append(text)
        self._log(f"PROBLEM: {text}")

    def _output(self, name: str) -> None:
        """One output, from nothing to its end."""
        chance, left = self._chance, self._settings.kills - self.summary.kills.total()
        kills = min(left, chance.randint(min(4, left), self._settings.most_per_output))
        sink, intruder = chance.choice(SINKS), chance.random() < INTRUDERS
        self._log(f"{name}: {kills} kills, sink {sink or 'as it is'}")
        for _ in range(MOST_RUNS):
            if not self._faults.store_away or chance.random() < 0.7:
                self._faults.tend(wait=True)
            job = self.start(name, sink)
            struck, intruder = self._attend(job, name, kills, intruder)
            kills -= struck
            if self._is_done(job, name):
                break
        else:
            self._problem(f"{name} didn't come to an end in {MOST_RUNS} runs")
        self._faults.tend(wait=True)
        verdict = self.check(name)
        self.summary.verdicts.append(verdict)
        self._log(f"{name}: {'sound' if verdict.sound else 'NOT SOUND'}: {verdict}")
        self._look_for_orphans()

    def _attend(self, job: Job, name: str, kills: int, intruder: bool) -> tuple[int, bool]:
        """Strike at `job` until it has ended, `kills` times at most.

        Returns: how often it was struck, and whether a second job is still to come.
        """
        moment, struck = self._first_moment(), 0
        rows, moved = job.rows, time.monotonic()
        while job.status is None:
            job.disturbed |= self._faults.away
            time.sleep(0.1)
            self._faults.tend()
            if struck < kills and moment.has_come(job) and self._strike(job):
                struck, moment, job.disturbed = struck + 1, self._next_moment(), True
            if intruder and (job.rows or 0) > 0:
                self._intrude(job, name)
                intruder, moment = False, self._next_moment()
            if job.rows != rows or self._faults.away:
                rows, moved = job.rows, time.monotonic()
            if time.monotonic() - moved > DEADLINE:
                self._problem(f"{name} hung at {job.place}: {self._evidence(job)}")
                job.kill()
        return struck, intruder

    def _first_moment(self) -> Moment:
        phase = "running" if self._first else self._chance.choices(list(PHASES), list(PHASES.values()))[0]
        spans = {"starting": self._chance.uniform(0, 20), "ending": self._chance.uniform(0, 3)}
        return Moment(phase, spans.get(phase, self._chance.expovariate(1 / self._settings.mean_seconds)))

    def _next_moment(self) -> Moment:
        return Moment("struck", self._chance.expovariate(1 / self._settings.mean_seconds))

    def _strike(self, job: Job) -> bool:
        place = job.place
        kind = self._first[0] if self._first else self._chance.choices(list(KINDS), list(KINDS.values()))[0]
        what = self._faults.strike(kind, job)
        if what is None:
            return False
        if self._first:
            self._first.pop(0)
        self.summary.kills[kind] += 1
        self._log(f"kill {self.summary.kills.total():3d} at {place}: {what}")
        return True

    def _is_done(self, job: Job, name: str) -> bool:
        """Whether nothing is left to do; and a word in the log about a run that ended by itself before that."""
        status = job.process.wait()
        self.summary.ended["killed" if status < 0 else f"status {status}"] += 1
        if status == 0 and not job.rejected:
            return True
        if status == 0:
            self._log(f"run {self._runs} ended with {job.rejected} rejects")
        elif status > 0:
            last = job.said.strip().splitlines()[-2:]
            self._log(f"run {self._runs} ended with status {status}: {' '.join(last)[:200]}")
            if not job.disturbed:
                self._problem(f"{name} failed undisturbed in run {self._runs}: {job.tail()}")
        return False

    def _intrude(self, job: Job, name: str) -> None:
        """A second job on the same output must be refused while the first lives."""
        second = self.start(name)
        end = time.monotonic() + DEADLINE
        while second.status is None and time.monotonic() < end:
            time.sleep(0.2)
            self._faults.tend()
        if second.status is None:
            second.kill()
        if job.status is not None:
            outcome = "came too late"
        elif second.status == 1 and REFUSAL in second.said:
            outcome = "refused"
        else:
            outcome = "NOT refused"
            self._problem(f"a second job on {name} ended with {second.status} at {job.place}: {second.tail()}")
        self.summary.intruders[outcome] += 1
        self._log(f"a second job at {job.place}: {outcome}")

    def _look_for_orphans(self) -> None:
        """Processes of killed jobs that live on although no one needs them."""
        end = time.monotonic() + DEADLINE
        while (found := self._orphans()) and time.monotonic() < end:
            time.sleep(1)
        for pid, name in found.items():
            self._problem(f"process {pid} was left behind: {name}")

    def _orphans(self) -> dict[int, str]:
        """Processes that were started with this cluster's token and belong to none of its nodes, and forked children
        of processes that are gone."""
        token = self._cluster.environment["RAY_AUTH_TOKEN"].encode()
        ours = {node.process.pid for node in self._cluster.nodes}
        ours |= {pid for root in list(ours) for pid in descendants(root)}
        of = parents()
        found = {pid: title(pid) for pid, parent in of.items() if parent and parent not in of}
        for pid in of.keys() - ours:
            with contextlib.suppress(OSError):  # another user's, or ended meanwhile
                if token in Path(f"/proc/{pid}/environ").read_bytes():
                    found[pid] = title(pid)
        return found

    def _evidence(self, job: Job) -> Path:
        """What may tell why a job hangs, in a file."""
        path = self._folder / f"hung-{self._runs}.txt"
        processes = [
            f"{node.ip or 'head'} {pid} {title(pid)}"
            for node in self._cluster.nodes
            for pid in descendants(node.process.pid)
        ]
        path.write_text("\n\n".join([job.said, self._cluster_status(), "\n".join(processes)]))
        return path

    def _cluster_status(self) -> str:
        """What Ray says of itself, which may hang, too."""
        command, environment = [str(PROGRAMS / "ray"), "status", "-v"], without_ray() | self._cluster.environment
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        except subprocess.TimeoutExpired as error:
            return str(error)
        return done.stdout + done.stderr
