"""A compile as the command line runs it: compiled, saved, measured on what was held back."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from rich.console import Console
from rich.status import Status

from moa_dspy.cli.compilation import Compilation, prompts
from moa_dspy.cli.console import note
from moa_dspy.cli.show import cost_of
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.moa import MoA
from moa_dspy.optimizers import CompileInterrupted, StageReport, Stop
from moa_dspy.usage import Usage, metered

__all__ = ["run", "stopped"]


def run(compilation: Compilation) -> None:
    """Compile, save, and measure on the held-back data.

    Raises:
        CompileInterrupted: If an LM or the metric is of no use.
    """
    job = compilation.job
    job.on_stage = _told
    with _counted("compiling", compilation.budget.calls), _quiet():
        moa, compilation.report = job.run(compilation.optimizer)
    moa.save(compilation.out)
    compilation.after = prompts(moa)
    if job.checkpoint is not None:
        shutil.rmtree(job.checkpoint, ignore_errors=True)
    if compilation.heldout:
        measured = _counted("measuring on the held-back data", compilation.measuring_calls)
        with measured, _quiet(), metered("heldout") as meter:
            try:
                before = _scores(compilation, job.student)
                after = before if compilation.is_unchanged else _scores(compilation, moa)
            except Stop as stop:
                note(f"{stop.__cause__} The mixture is saved, but there is no score.")
                before, after = [], []
        compilation.scores_before, compilation.scores_after = before, after
        compilation.measuring = Usage.of(meter.calls())


def stopped(compilation: Compilation, error: CompileInterrupted) -> None:
    """Say what a compile that failed has cost, and how to go on."""
    usage = error.report.usage
    cost = cost_of(usage, {agent.model or "" for agent in compilation.job.student.agents})
    note(f"Spent until then: {usage.calls:,} LM calls, cost {cost}. {compilation.how_to_go_on}")


def _scores(compilation: Compilation, moa: MoA) -> list[float]:
    def ask(index: int) -> tuple[int, float]:
        example = compilation.heldout[index]
        try:
            prediction = moa(**example.inputs())
        except Exception:  # counted as wrong, as it would be for whoever asked
            return index, 0.0
        return index, float(metric(example, prediction))

    metric, indices = compilation.job.scored(), range(len(compilation.heldout))
    return [value for _, value in sorted(run_side_by_side(ask, indices, compilation.job.threads))]


def _told(stage: StageReport) -> None:
    change = "" if stage.before is None else f": {stage.before:.3f} -> {stage.after:.3f} on the valset"
    more = f" ({stage.note})" if stage.note else ""
    note(f"{stage.name}{change}, {stage.usage.calls + stage.optimizer_usage.calls} calls{more}")


class _Counter(BaseCallback):
    """Shows how many LM calls have ended."""

    def __init__(self, what: str, most: int, status: Status) -> None:
        self.what, self.most, self.status, self.calls = what, most, status, 0

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self.calls += 1
        self.status.update(f"{self.what}: {self.calls:,} of at most {self.most:,} LM calls")


@contextmanager
def _counted(what: str, most: int) -> Iterator[None]:
    """A line on stderr, if that is a terminal. While it stands, what is printed goes above it: be quiet inside."""
    with Console(stderr=True).status(what) as status:
        counter = _Counter(what, most, status)
        with dspy.context(callbacks=[*dspy.settings.get("callbacks", []), counter]):
            yield


@contextmanager
def _quiet() -> Iterator[None]:
    """DSPy prints bars on stdout and logs every example that fails; what matters is told by us."""
    loggers = [logging.getLogger(name) for name in ("dspy", "gepa")]
    levels = [logger.level for logger in loggers]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        except KeyboardInterrupt:
            raise  # and keep quiet: threads that nobody waits for any more would log how they end
        except BaseException:
            _restore(loggers, levels)
            raise
        _restore(loggers, levels)


def _restore(loggers: Sequence[logging.Logger], levels: Sequence[int]) -> None:
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
