"""A run under way: what was counted for it, and what is logged into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import dspy
import mlflow

from moa_dspy.moa import MoA
from moa_dspy.secrets import redact
from moa_dspy.usage import LMCall, Usage

from .active import activate, deactivate
from .comparing import comparison_metrics, systems
from .facts import Facts, is_like
from .guard import LOCAL_LIMIT, Guard, is_remote
from .ledger import Ledger
from .metrics import call_metrics
from .naming import metric_names, prompt_names
from .params import config_of, optimizer_params, params_of
from .prompts import SECONDS, Prompt, prompts_of, register
from .writing import around, end_run, log, log_child, log_input, log_table, log_texts, opened, parent_of_next, start_run

if TYPE_CHECKING:
    from moa_dspy.evaluation.comparison import Comparison

__all__ = ["Tracked"]


class Tracked:
    """What `track` gives. It counts without a tracking server too.

    Attributes:
        run_id: The MLflow run; None if there is none, because the server is of no use.
    """

    def __init__(self, moa: MoA, name: str | None = None) -> None:
        self.run_id: str | None = None
        self._moa = moa
        self._name = name
        self._ledger = Ledger()
        self._facts = Facts(moa, self._ledger, self._log_optimizer, self._log_compiled)
        self._experiment_id = ""
        self._compiles = 0
        self._prompted = 0
        self._given: dict[str, float] = {}
        self._guard = Guard()
        self._registry = Guard(SECONDS if is_remote(mlflow.get_tracking_uri()) else LOCAL_LIMIT)

    @property
    def calls(self) -> list[LMCall]:
        """The LM calls so far, in the order in which they were started."""
        return self._ledger.calls()

    @property
    def compile_calls(self) -> list[LMCall]:
        """Those made while an optimizer compiled."""
        return self._ledger.calls(compiling=True)

    @property
    def usage(self) -> Usage:
        """All calls added up."""
        return Usage.of(self.calls)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log further numbers, a `score` of your own perhaps: what you give stands, whatever was measured.

        Args:
            metrics: Name -> value; characters that MLflow refuses are replaced.
        """
        names = metric_names(metrics)
        given = {names[name]: float(value) for name, value in metrics.items()}
        self._given |= given
        self._write("log metrics", lambda run_id: log(run_id, given))

    def log_prompts(self, program: dspy.Module, message: str | None = None) -> None:
        """Log the prompts of a compiled copy as the next versions; a compile inside the block does it by itself.

        Args:
            program: The mixture's copy, or a program with it.
            message: The versions' commit message.

        Raises:
            TypeError: If it is no program.
            ValueError: If there is no copy of the mixture in it.
        """
        if not isinstance(program, dspy.Module):
            raise TypeError(f"Prompts are logged of a dspy.Module, not of a {type(program).__name__}.")
        copy = self._copy_in(program)
        if copy is None:
            raise ValueError(
                f"This {type(program).__name__} holds no copy of the mixture that is tracked: none has its strategy, "
                "agents and fields. Use moa_dspy.register_prompts() for another mixture."
            )
        self._write_prompts(copy, message)

    def log_comparison(self, comparison: Comparison) -> None:
        """Log a comparison as one child run per system, for MLflow's compare page; here, `score` and `oracle`.

        Args:
            comparison: What `moa_dspy.evaluation.evaluate` gave.
        """
        for system, params, metrics in systems(comparison):
            child = partial(log_child, experiment_id=self._experiment_id, name=system, metrics=metrics, params=params)
            self._write(f"log the results of {system}", child)
        self.log_metrics(comparison_metrics(comparison, self._moa.strategy.name))
        text = json.dumps(comparison.to_dict(), ensure_ascii=False, indent=2)
        self._write("log the comparison", lambda run_id: log_texts(run_id, {"comparison.json": text}))

    def settings(self) -> dict[str, Any]:
        """The DSPy settings under which everything is seen."""
        settings = self._ledger.settings()
        return settings | {"callbacks": [*settings["callbacks"], self._facts]}

    @contextmanager
    def run(self, data: Any = None) -> Iterator[None]:
        """The MLflow run of a block, active in its thread, which is ended as the block ends."""
        outer, error = around.get(), None
        self._start(data)
        try:
            yield
        except BaseException as raised:
            error = raised
            raise
        finally:
            around.set(outer)
            self._end(error)

    def _start(self, data: Any) -> None:
        parent = parent_of_next()
        run = self._guard.run("start a run", lambda: start_run(self._name, parent))
        if run is None:
            return
        self.run_id, self._experiment_id = run.info.run_id, run.info.experiment_id
        activate(run)
        opened.add(run.info.run_id)
        around.set((*around.get(), run.info.run_id))
        self._write("describe the run", lambda run_id: self._describe(run_id, data))
        self._write_prompts(self._moa)

    def _end(self, error: BaseException | None) -> None:
        if self.run_id is None:
            return
        deactivate(self.run_id)
        opened.discard(self.run_id)
        self._write("log the results", lambda run_id: self._write_results(run_id, error))

    def _describe(self, run_id: str, data: Any) -> None:
        config = config_of(self._moa)
        log(run_id, params=params_of(config))
        log_texts(run_id, {"config.json": json.dumps(config, ensure_ascii=False, indent=2)})
        if data is not None:
            log_input(run_id, data)

    def _write_prompts(self, moa: MoA, message: str | None = None) -> None:
        folder = f"prompts_{self._prompted}" if self._prompted > 1 else ("prompts", "prompts_compiled")[self._prompted]
        self._prompted += 1
        prompts: list[Prompt] = []

        def write(run_id: str) -> None:
            prompts.extend(prompts_of(moa))
            names = prompt_names(prompt.predictor for prompt in prompts)
            log_texts(run_id, {f"{folder}/{names[prompt.predictor]}.md": prompt.text for prompt in prompts})

        self._write("log the prompts", write)
        run_id, name = self.run_id, self._name or "moa"
        if not self._guard.broken and run_id is not None:
            self._registry.run("register the prompts", lambda: register(prompts, name, run_id, message))

    def _copy_in(self, program: dspy.Module) -> MoA | None:
        mixtures = (part for _, part in program.named_sub_modules(MoA) if isinstance(part, MoA))
        return next((part for part in mixtures if is_like(part, self._moa)), None)

    def _write_results(self, run_id: str, error: BaseException | None) -> None:
        table, lms = self._facts.table, [lm for agent in self._moa.agents for lm in agent.lms]
        try:
            tags = {} if error is None else {"error": redact(f"{type(error).__name__}: {error}", *lms)[:1000]}
            if table.is_cut:
                tags["proposals"] = f"the first {table.limit} of {table.seen} rows"
            log(run_id, {**call_metrics(self._ledger), **self._facts.metrics(), **self._given}, tags=tags)
            if columns := table.columns(*lms):
                log_table(run_id, columns, "proposals.json")
        finally:
            end_run(run_id, error)

    def _log_optimizer(self, optimizer: Any, inputs: Mapping[str, Any]) -> None:
        self._compiles += 1
        group = "optimizer" if self._compiles == 1 else f"optimizer_{self._compiles}"
        self._write("log the optimizer", lambda run_id: log(run_id, params=optimizer_params(optimizer, inputs, group)))

    def _log_compiled(self, optimizer: Any, program: Any) -> None:
        copy = self._copy_in(program) if isinstance(program, dspy.Module) else None
        if copy is not None:
            self._write_prompts(copy, f"compiled by {type(optimizer).__name__}")

    def _write(self, what: str, work: Callable[[str], None]) -> None:
        run_id = self.run_id
        if run_id is not None:
            self._guard.run(what, lambda: work(run_id))
