"""Which candidate is the fastest? Timed on the device when the user asks for it, and recorded.

A search goes through the candidates of one pass in the cost model's order, drops those that are
much slower, then times the better half in turn, then the better half of these. The winner must
first compute what the reference computes. The record goes to the user's database
(`clconv.planning.records`), where `variant="auto"` finds it.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyopencl as cl

from clconv import progress
from clconv.errors import DeviceError, OutOfMemoryError, ProblemError
from clconv.planning.planner import Choice, KernelPlan, plans
from clconv.planning.records import Record, RecordKey, Timing
from clconv.problem import Conv1dProblem, Pass
from clconv.runtime import Runtime, replan
from clconv.tuning.bench import Bench, integers, shapes
from clconv.tuning.verifier import Verifier

__all__ = [
    "PASSES",
    "Bench",
    "Progress",
    "Task",
    "Verifier",
    "candidates",
    "integers",
    "once",
    "shapes",
    "tasks_of",
    "tune",
]

_log = logging.getLogger(__name__)

# A search takes this long unless told otherwise, compiling included.
SECONDS = 5.0
# After this part of its time no new candidate is tried where a run takes long.
SCREENING = 0.6
# Who takes this many times as long as the best gets no second chance, nor do others of a variant
# whose best tile so far does.
HOPELESS = 3.0
# A sample runs a plan again and again for this long; so many are taken at first, then in turns.
SAMPLE_SECONDS, MOST_RUNS = 1e-3, 100
SCREENING_SAMPLES, TURNS = 3, 4
# The cost model's first choice gives way to what is faster by more than this: less is noise.
MARGIN = 0.02

# The passes between whose candidates there is a choice.
PASSES = (Pass.FORWARD, Pass.INPUT_GRADIENT, Pass.WEIGHT_GRADIENT)


class Task(NamedTuple):
    """What can be tuned: a pass of a problem.

    Attributes:
        problem: what is computed.
        pass_: which of its passes.
    """

    problem: Conv1dProblem
    pass_: Pass


class Progress(NamedTuple):
    """How far a search is.

    Attributes:
        tried: candidates so far.
        candidates: those that there are.
        best_us: the least time so far, in microseconds, or None.
    """

    tried: int
    candidates: int
    best_us: float | None


# The search


@dataclass(eq=False)
class _Trial:
    """A candidate that runs, its place in the cost model's order, and seconds a run by sample."""

    place: int
    plan: KernelPlan
    job: Callable[[], None]
    finish: Callable[[], None]
    runs: int = 1
    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.samples)

    def sample(self) -> None:
        """Times it once more."""
        start = time.perf_counter()
        for _ in range(self.runs):
            self.job()
        self.finish()
        self.samples.append((time.perf_counter() - start) / self.runs)

    def screen(self, best: float) -> None:
        """Times it shortly; once only if it is hopeless against the best so far, in seconds."""
        self.sample()  # drivers compile at the first launch too
        self.samples.clear()
        self.sample()
        if self.median > HOPELESS * best:
            return
        self.runs = max(1, min(MOST_RUNS, int(SAMPLE_SECONDS / self.median)))
        self.samples.clear()
        for _ in range(SCREENING_SAMPLES):
            self.sample()


class _Search:
    """The trials of one pass, and why there is none of other candidates, which are in the cost
    model's order."""

    def __init__(
        self,
        runtime: Runtime,
        task: Task,
        candidates: Sequence[KernelPlan],
        seconds: float,
        tell: Callable[[Progress], object] | None,
    ) -> None:
        self._start = time.perf_counter()
        self._seconds = seconds
        self._runtime = runtime
        self._task = task
        self._candidates = candidates
        self._tell = tell
        self._trials: dict[int, _Trial] = {}  # by place
        self._refusals: dict[int, str] = {}
        self._bench = Bench(runtime, *task, integers(task.problem), candidates)

    def run(self, key: RecordKey, hints: Sequence[Choice]) -> Record:
        """The record. Raises DeviceError where no candidate runs and computes what it should."""
        self._screen(self._order(hints))
        winner = self._first_right(self._ranking(self._take_turns()))
        return Record(
            key,
            winner.plan.choice,
            tuple(self._timings()),
            len(self._candidates) - len(self._trials) - len(self._refusals),
            time.perf_counter() - self._start,
            self._runtime.records.driver,
        )

    @property
    def _spent(self) -> float:
        """The part of the time that is over."""
        return (time.perf_counter() - self._start) / self._seconds

    def _ranked(self) -> list[_Trial]:
        """All trials, the fastest first."""
        return sorted(self._trials.values(), key=lambda trial: trial.median)

    def _order(self, hints: Sequence[Choice]) -> list[int]:
        """The candidates' places: those hinted at, the first of each variant and width of vectors,
        which depends on the activation, the rest."""
        places = range(len(self._candidates))
        firsts: dict[Hashable, int] = {}
        for place in places:
            plan = self._candidates[place]
            firsts.setdefault((plan.variant, plan.tile["lanes"]), place)
        hinted = [i for hint in hints for i in places if self._candidates[i].choice == hint]
        return list(dict.fromkeys((*hinted, *firsts.values(), *places)))

    def _screen(self, order: Sequence[int]) -> None:
        """Tries candidates while there is time; the cost model's choice in any case."""
        for tried, place in enumerate(order, 1):
            enough = self._trials and (0 in self._trials or 0 in self._refusals)
            if enough and self._spent + self._turns_need > 1:
                break
            plan = self._candidates[place]
            if place and self._is_hopeless(plan):
                continue
            best = self._ranked()[0].median if self._trials else float("inf")
            try:
                trial = _Trial(place, plan, self._bench.job(plan), self._runtime.finish)
                trial.screen(best)
                self._trials[place] = trial
            except (DeviceError, cl.Error) as error:  # it does not build, or does not run
                self._refusals[place] = str(error)
            if self._tell is not None:
                least = self._ranked()[0].median * 1e6 if self._trials else None
                self._tell(Progress(tried, len(order), least))

    @property
    def _turns_need(self) -> float:
        """The part of the time to keep for taking turns."""
        a_sample = max(SAMPLE_SECONDS, self._ranked()[0].median)
        wanted = 3 * TURNS * len(self._trials) * a_sample / self._seconds
        return min(1 - SCREENING, 0.05 + wanted)

    def _is_hopeless(self, plan: KernelPlan) -> bool:
        """Whether even the best of its variant is much slower."""
        ranked = self._ranked()
        akin = [trial for trial in ranked if trial.plan.variant == plan.variant]
        return bool(akin) and akin[0].median > HOPELESS * ranked[0].median

    def _take_turns(self) -> list[_Trial]:
        """Successive halving: the candidates that remain, the fastest first, and the cost model's
        choice."""
        ranked = self._ranked()
        left = [t for t in ranked if t.place == 0 or t.median <= HOPELESS * ranked[0].median]
        half, turns = len(left), TURNS
        while half > 1:
            # The longer a run takes, the less it hangs on chance, and the fewer turns there are.
            until = 1.0 if half == 2 else (1 + self._spent) / 2
            for _ in range(turns):
                for trial in left:
                    if self._spent < 1:
                        trial.sample()
                if self._spent > until:
                    break
            left.sort(key=lambda trial: trial.median)
            if half == 2:
                break
            half, turns = max(2, -(-half // 2)), 2 * turns
            left = [trial for i, trial in enumerate(left) if i < half or trial.place == 0]
        return left

    def _ranking(self, left: Sequence[_Trial]) -> list[_Trial]:
        """All trials, those that may win first."""
        ranking = list(dict.fromkeys((*left, *self._ranked())))
        for trial in ranking:
            if trial.place == 0 and trial.median <= (1 + MARGIN) * ranking[0].median:
                return [trial, *(one for one in ranking if one is not trial)]
        return ranking

    def _first_right(self, ranking: Sequence[_Trial]) -> _Trial:
        """The first that computes the right values. Others are refused.

        The cost model's choice, or what comes next to it, is verified before the others, which are
        compared with it.
        """
        checks = Verifier(self._runtime, *self._task, self._bench, self._candidates)
        verified: set[_Trial] = set()
        for trial in sorted(ranking, key=lambda trial: trial.place):
            if self._is_right(checks, trial):
                verified.add(trial)
                break
        for trial in ranking:
            if trial in verified or (trial.place in self._trials and self._is_right(checks, trial)):
                return trial
        raise DeviceError(
            f"{self._runtime.info.name} computes the {self._task.pass_.value} with none of "
            f"{len(self._candidates)} candidates: {'; '.join(self._refusals.values())}"
        )

    def _is_right(self, checks: Verifier, trial: _Trial) -> bool:
        fault = checks.fault(trial.plan, trial.job)
        if fault is not None:
            del self._trials[trial.place]
            self._refusals[trial.place] = fault
            _log.warning("%s is refused for %s: %s", trial.plan.choice, self._task, fault)
        return fault is None

    def _timings(self) -> Iterator[Timing]:
        for place, plan in enumerate(self._candidates):
            about = (plan.choice, plan.cost * 1e6, plan.workspace_bytes)
            if place in self._trials:
                trial = self._trials[place]
                yield Timing(*about, trial.median * 1e6, len(trial.samples))
            elif place in self._refusals:
                yield Timing(*about, refusal=self._refusals[place])


# What users ask for


_asked = threading.local()


@contextmanager
def once() -> Iterator[None]:
    """Within it, what this thread is asked to tune more than once is timed the first time only.

    Returns:
        A context manager.
    """
    outer = getattr(_asked, "records", None)
    _asked.records = {} if outer is None else outer
    try:
        yield
    finally:
        _asked.records = outer


def candidates(
    runtime: Runtime, task: Task, memlimit: int | None = None, kept: int = 0
) -> tuple[list[KernelPlan], int | None]:
    """The candidates of a task, in the cost model's order.

    Args:
        runtime: the device.
        task: the pass of a problem.
        memlimit: the most bytes of workspace, or None.
        kept: bytes of it that are taken by something else.

    Returns:
        The plans whose workspace fits, and the limit that they keep, None where there is none.

    Raises:
        ProblemError: no such problem.
        OutOfMemoryError: nothing fits.
    """
    every = plans(*task, runtime.profile, workspace_limit=runtime.workspace_limit)
    found = [p for p in every if memlimit is None or p.workspace_bytes + kept <= memlimit]
    if not found:
        least = min(p.workspace_bytes for p in every) + kept
        raise OutOfMemoryError(
            f"memlimit is {memlimit} bytes, expected at least {least} for {task.pass_.value}"
        )
    if memlimit is not None and len(found) < len(every):
        return found, memlimit - kept
    return found, runtime.workspace_limit


def tune(
    runtime: Runtime,
    problem: Conv1dProblem,
    pass_: Pass | str,
    *,
    seconds: float | None = None,
    memlimit: int | None = None,
    kept: int = 0,
    tell: Callable[[Progress], object] | None = None,
) -> Record:
    """Times the candidates of a pass on a device, and keeps the record for `variant="auto"`.

    The better half goes on, and is timed twice as often, until two are left: successive halving
    (Karnin, Koren and Somekh, 2013).

    Args:
        runtime: the device.
        problem: what is computed.
        pass_: "forward", "input_gradient", "weight_gradient" or "bias_gradient".
        seconds: about how long it may take, compiling included; None means 5. One candidate is
            timed in any case.
        memlimit: the most bytes of workspace, or None.
        kept: bytes of it that are taken by something else.
        tell: called with a Progress after each candidate, or None.

    Returns:
        The record, whose `choice` is the fastest.

    Raises:
        ProblemError: no such pass.
        OutOfMemoryError: nothing fits; then nothing is recorded.
        DeviceError: no candidate runs; then nothing is recorded.

    Examples:
        >>> from clconv import Runtime
        >>> problem = Conv1dProblem(1, 2, 99, 4, 3)
        >>> record = tune(Runtime(), problem, "forward", seconds=0.1)
        >>> record.winner.median_us > 0
        True
    """
    task = Task(problem, Pass.of(pass_))
    seconds = SECONDS if seconds is None else seconds
    if not seconds > 0:
        raise ProblemError(f"seconds is {seconds}, expected more than 0")
    if task.pass_ not in PASSES:
        raise ProblemError(f"pass is {task.pass_.value!r}, which has one candidate only")
    if not problem.batch:
        raise ProblemError("batch is 0, expected at least 1: there is nothing to time")
    found, limit = candidates(runtime, task, memlimit, kept)
    key = RecordKey(*task, limit)
    asked: dict[Any, Record] | None = getattr(_asked, "records", None)
    if asked is not None and (runtime, key) in asked:
        return asked[runtime, key]
    shipped = [one.choice for one in runtime.known_of(problem.layer, task.pass_)]
    hints = [*runtime.records.hints(key), *shipped]
    with progress.bar(task.pass_.value.replace("_", " "), "candidate", len(found)) as shown:

        def tell_all(now: Progress) -> None:
            best = "" if now.best_us is None else f"best {now.best_us:.1f} us"
            shown.tell(now.tried, now.candidates, best)
            if tell is not None:
                tell(now)

        record = _Search(runtime, task, found, seconds, tell_all).run(key, hints)
    runtime.records.add([record])
    replan()
    if asked is not None:
        asked[runtime, key] = record
    return record


class _Watcher(Runtime):
    """A runtime on another's queue that notes what it is asked to plan."""

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime.queue, workspace_limit=runtime.workspace_limit)
        self.profile = runtime.profile
        self.tasks: dict[Task, None] = {}

    def candidates(self, problem: Conv1dProblem, pass_: Pass, *rest: Any) -> Iterator[KernelPlan]:
        if pass_ in PASSES and problem.batch:
            self.tasks[Task(problem, pass_)] = None
        return super().candidates(problem, pass_, *rest)


def tasks_of(runtime: Runtime, call: Callable[[], object]) -> list[Task]:
    """The passes that a call computes on the default runtime.

    Args:
        runtime: the device whose plans are asked for.
        call: a function without arguments.

    Returns:
        Each pass once, in the order of the calls.
    """
    watcher = _Watcher(runtime)
    with watcher:
        call()
        watcher.finish()
    return list(watcher.tasks)
