"""A stage: one program tuned by one optimizer, its result kept if the valset says so."""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.concurrency import run_side_by_side

from .bill import Stop
from .feedback import Scored
from .report import StageReport
from .solo import Judge, Solo

__all__ = ["RESUMED", "Stage", "own_copy"]

RESUMED = "resumed, earlier calls not counted"

Prompts = dict[str, dspy.Predict]
_GEPA: Any = dspy.GEPA  # a class that a decorator hides from type checkers


@dataclass
class Stage:
    """What is tuned, on what, by what.

    Attributes:
        name: As it is reported.
        program: The agent alone.
        metric: What tells whether it was right.
        trainset: Examples for the optimizer.
        valset: Examples by which the result is kept or not.
        optimizer: Gives the optimizer.
        threads: Examples under way at once.
        room: Where GEPA keeps its state, and goes on from; None keeps nothing.
    """

    name: str
    program: Solo | Judge
    metric: Scored
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    optimizer: Callable[[Stage], Any]
    threads: int
    room: Path | None = None

    def run(self) -> tuple[StageReport, Prompts]:
        """Tune the program.

        Returns:
            The report, and the predictors to be taken over by their names in the mixture; none if nothing was
            found that is at least as good on the valset.

        Raises:
            Stop: If an LM or the metric is of no use.
        """
        bill, resumed = self.program.bill, self.room is not None and (self.room / "gepa_state.bin").exists()
        with dspy.context(**bill.settings()):
            before = self._evaluate(self.program)
            note, after, found = "", before, {}
            if not bill.of_agents():
                note = "never asked: nothing to tune"
            else:
                tuned = self._tuned()
                if _same_prompts(tuned, self.program):
                    note = "no better prompt found"
                else:
                    after = self._evaluate(tuned)
                    found = dict(tuned.named_predictors()) if after >= before else {}
                    note = "" if found else "not kept: worse on the valset"
        if resumed:
            note = "; ".join([*([note] if note else []), RESUMED])
        report = bill.report(self.name, before=before, after=after, kept=bool(found), note=note)
        return report, found

    def _tuned(self) -> dspy.Module:
        while True:
            try:
                return self._compiled()
            except KeyError as error:
                if not _is_of_progress_bars(error):
                    raise

    def _compiled(self) -> dspy.Module:
        optimizer = self.optimizer(self)
        takes = inspect.signature(optimizer.compile).parameters
        given: dict[str, Any] = {"trainset": list(self.trainset)}
        if "valset" in takes:
            given["valset"] = list(self.valset)
        if "eval_kwargs" in takes:  # COPRO
            given["eval_kwargs"] = {"num_threads": self.threads, "display_progress": False}
        tuned = optimizer.compile(self.program.deepcopy(), **given)
        names = [name for name, _ in self.program.named_predictors()]
        # A compiled program is frozen: it would show none of its predictors to the mixture.
        tuned._compiled = False
        if [name for name, _ in tuned.named_predictors()] != names:
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
            return float(self.metric(example, prediction))

        scores = list(run_side_by_side(ask, self.valset, self.threads))
        if len(errors) == len(scores):
            raise Stop(f"None of {len(scores)} examples of the valset got an answer") from errors[0]
        # Summed in one order, whatever order they came in.
        return sum(sorted(scores)) / len(scores)


def _is_of_progress_bars(error: KeyError) -> bool:
    """Whether two evaluations met at the wrong moment.

    Each evaluation of DSPy's empties tqdm's global set of bars; a hidden bar of another one, which was about to leave
    that set, then raises. Nothing was wrong with the compile, so it is done again.
    """
    innermost = traceback.extract_tb(error.__traceback__)[-2:]
    return any("tqdm" in Path(place.filename).parts for place in innermost)


def own_copy(optimizer: Any, metric: Scored, folder: str, room: Path | None = None) -> Any:
    """A copy of an optimizer for one stage, which scores by this metric and keeps its logs apart.

    Args:
        optimizer: The user's; it stays as it is.
        metric: Of the stage.
        folder: Where in its log folder the stage's logs go: GEPA would take another stage's for its own, and resume.
        room: The log folder, if it has none.
    """
    own = copy.copy(optimizer)
    for name, value in vars(own).items():
        if isinstance(value, (list, dict, set)):
            setattr(own, name, copy.copy(value))
    for name in ("metric", "metric_fn"):
        if hasattr(own, name):
            setattr(own, name, metric)
    if getattr(own, "log_dir", None):
        own.log_dir = str(Path(own.log_dir) / folder)
    elif room is not None and isinstance(own, _GEPA):
        own.log_dir = str(room)
    return own


def _same_prompts(one: dspy.Module, other: dspy.Module) -> bool:
    pairs: Any = zip(one.predictors(), other.predictors(), strict=True)
    return all(a.signature.equals(b.signature) and a.demos == b.demos for a, b in pairs)
