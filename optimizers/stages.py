"""A stage: one program tuned by one optimizer, its result kept if the valset says so."""

from __future__ import annotations

import copy
import inspect
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import dspy
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError

from moa_dspy.allowance import ALLOWANCE, Allowance
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.errors import TooFewProposals
from moa_dspy.meter import Meter
from moa_dspy.moa import MoA
from moa_dspy.usage import LMCall, Usage

from .quiet import heard, quiet
from .reports import StageReport
from .scoring import INSIDE, Scored, Stop

if TYPE_CHECKING:
    from .specialize import Specialize

__all__ = ["Stage", "own_copy"]

_GEPA: Any = dspy.GEPA  # a class that a decorator hides from type checkers

# Failed calls in a row after which a model is taken for dead.
_PATIENCE = 5
# Among DSPy's settings, because those reach the workers of its executors: whether a program of the stage runs.
_ASKING = "moa_dspy_asking"


@dataclass
class Stage:
    """What is tuned, on what, by what."""

    name: str
    program: MoA  # perhaps of one agent, or one that asks its aggregator alone
    scored: Scored
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    owner: Specialize  # gives the optimizer
    room: Path | None = None  # where GEPA keeps its state, and goes on from
    compares: bool = True  # whether to measure on the valset before and after; else the optimizer's word is taken
    arguments: Mapping[str, Any] = field(default_factory=dict)  # further ones of the optimizer's `compile`
    meter: StageMeter = field(default_factory=lambda: StageMeter())

    def run(self) -> tuple[StageReport, dict[str, Any]]:
        """Tune the program; `Stop` if an LM or the metric is of no use, `KeyboardInterrupt` after Ctrl-C.

        Gives the report, and the predictors to be taken over by their names in the mixture; none if nothing was found
        that is at least as good on the valset.
        """
        resumed = self.room is not None and (self.room / "gepa_state.bin").exists()
        program, found, note = _Watched(self.program, self.meter), dict[str, Any](), ""
        before = after = None
        said = nullcontext() if self.owner.verbose else quiet()
        try:
            with _heeding_interrupts(self.meter), dspy.context(**self.meter.settings()), said:
                before = after = self._evaluate(program) if self.compares else None
                if self.compares and not self.meter.calls():
                    note = "never asked: nothing to tune"
                elif _same_prompts(tuned := self._compiled(program), program):
                    note = "no better prompt found"
                else:
                    found = {name.removeprefix(INSIDE): part for name, part in tuned.named_predictors()}
                    after = self._evaluate(tuned) if self.compares else None
        except BaseException as error:  # Ctrl-C too: what runs on in a thread shall ask no more
            self.meter.stop(error)
            raise
        if before is not None and after is not None and after < before:
            found, note = {}, "not kept: worse on the valset"
        note = "; ".join(filter(None, [note, "resumed, earlier calls not counted" if resumed else ""]))
        return self.meter.report(self.name, before=before, after=after, kept=bool(found), note=note), found

    def _compiled(self, program: _Watched) -> dspy.Module:
        optimizer = self.owner.build_optimizer(self)
        offered = {
            "valset": list(self.valset),
            "eval_kwargs": {"num_threads": self.owner.num_threads, "display_progress": False},  # COPRO
        }
        takes = inspect.signature(optimizer.compile).parameters
        given = {name: value for name, value in offered.items() if name in takes}
        tuned = optimizer.compile(program.deepcopy(), trainset=list(self.trainset), **given, **self.arguments)
        # A compiled program is frozen: it would show none of its predictors to the mixture.
        tuned._compiled = False
        if [name for name, _ in tuned.named_predictors()] != [name for name, _ in program.named_predictors()]:
            raise TypeError(
                f"{type(optimizer).__name__} gave a program of another shape ({type(tuned).__name__}), whose prompts "
                "cannot be put into the mixture. Use an optimizer of prompts or demos, for example dspy.GEPA."
            )
        return tuned

    def _evaluate(self, program: dspy.Module) -> float:
        """The mean score on the valset; what fails scores 0."""
        errors: list[Exception] = []

        def ask(example: dspy.Example) -> float:
            try:
                with dspy.context(trace=[]):
                    prediction = program(**example.inputs())
            except Exception as error:
                errors.append(error)
                return 0.0
            return float(self.scored(example, prediction))

        scores = list(run_side_by_side(ask, self.valset, self.owner.num_threads))
        if len(errors) == len(scores):
            raise Stop(f"None of {len(scores)} examples of the valset got an answer: {errors[0]}") from errors[0]
        # Summed in one order, whatever order they came in.
        return sum(sorted(scores)) / len(scores)


class StageMeter(Meter):
    """Meters a stage, and stops it where going on would cost money for nothing."""

    def __init__(self) -> None:
        super().__init__("stage")
        self.runs, self._started = 0, time.perf_counter()
        self._is_agents: dict[str, bool] = {}  # call id -> whether the program made it, or the optimizer
        self._failed_in_a_row: Counter[tuple[bool, str]] = Counter()
        self._stopped: BaseException | None = None
        self._allowance, self._lock = Allowance(), threading.Lock()

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Enter the calls made inside as a run of the agents; `Stop` if the stage was stopped."""
        if self._stopped is not None:
            raise Stop(str(self._stopped)) from self._stopped
        with self._lock:
            self.runs += 1
        with dspy.context(**{_ASKING: True, ALLOWANCE: self._allowance}), heard():
            yield

    def stop(self, reason: BaseException) -> None:
        """Let no program of this stage run any more, nor begin an LM call."""
        self._stopped = self._stopped or reason
        self._allowance.end()

    def report(self, stage: str, **details: Any) -> StageReport:
        """What came of the stage until now, with these details."""
        calls: dict[bool, list[LMCall]] = {False: [], True: []}
        for id, is_agents in list(self._is_agents.items()):
            calls[is_agents] += [call] if (call := self.call(id)) else []
        details |= {"optimizer_usage": Usage.of(calls[False]), "seconds": time.perf_counter() - self._started}
        return StageReport(name=stage, runs=self.runs, usage=Usage.of(calls[True]), **details)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        super().on_lm_start(call_id, instance, inputs)
        self._is_agents[call_id] = bool(dspy.settings.get(_ASKING))

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        super().on_lm_end(call_id, outputs, exception)
        call = self.call(call_id)
        who = (self._is_agents[call_id], call.model if call else "")
        with self._lock:
            if exception is None:
                self._failed_in_a_row[who] = 0
            elif not isinstance(exception, ContextWindowExceededError):
                self._failed_in_a_row[who] += 1
                if self._failed_in_a_row[who] >= _PATIENCE:
                    self.stop(exception)


@contextmanager
def _heeding_interrupts(meter: StageMeter) -> Iterator[None]:
    """Let Ctrl-C stop the stage at its next call; a second one is raised where it falls.

    Raised inside tqdm or an executor it would leave their locks held, and whoever tunes next would wait for ever.
    """
    before = signal.getsignal(signal.SIGINT)
    # Other threads than the main one never see Ctrl-C.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    interrupts: list[int] = []

    def heed(number: int, frame: FrameType | None) -> None:
        interrupts.append(number)
        meter.stop(KeyboardInterrupt())
        if len(interrupts) > 1:
            before(number, frame)

    signal.signal(signal.SIGINT, heed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if interrupts:
            raise KeyboardInterrupt


class _Watched(dspy.Module):
    """The program of a stage, metered."""

    def __init__(self, moa: MoA, meter: StageMeter) -> None:
        super().__init__()
        self.moa = moa
        self.meter = meter

    def forward(self, **inputs: Any) -> Any:
        fields = self.moa.signature.input_fields  # a labelled example holds the proposals too
        with self.meter.asking():
            try:
                return self.moa(**{name: value for name, value in inputs.items() if name in fields})
            except TooFewProposals as error:
                if isinstance(error.__cause__, AdapterParseError):  # of which GEPA makes feedback
                    raise error.__cause__ from error
                raise


def own_copy(optimizer: Any, stage: Stage) -> Any:
    """A copy of the user's optimizer for one stage, which scores by the stage's metric."""
    own = copy.copy(optimizer)
    for name, value in vars(own).items():
        if name in ("metric", "metric_fn"):
            setattr(own, name, stage.scored)
        elif isinstance(value, (list, dict, set)):
            setattr(own, name, copy.copy(value))
    if getattr(own, "log_dir", None):
        # A folder of its own: GEPA would take another stage's state for its own, and resume.
        own.log_dir = str(Path(own.log_dir) / stage.name.replace(", ", "-"))
    elif stage.room is not None and isinstance(own, _GEPA):
        own.log_dir = str(stage.room)
    return own


def _same_prompts(one: dspy.Module, other: dspy.Module) -> bool:
    pairs: Any = zip(one.predictors(), other.predictors(), strict=True)
    return all(a.signature.equals(b.signature) and a.demos == b.demos for a, b in pairs)
