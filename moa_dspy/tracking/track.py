"""A block of work with a mixture as one MLflow run."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy
import pandas
from mlflow.data.dataset import Dataset
from mlflow.data.pandas_dataset import from_pandas

from moa_dspy.moa import MoA
from moa_dspy.secrets import redact, without_secrets
from moa_dspy.tracking import tables
from moa_dspy.tracking.prompts import as_page, prompts_of, register
from moa_dspy.tracking.run import Run
from moa_dspy.tracking.store import describe
from moa_dspy.tracking.watch import BLOCK, Evaluation, Watch, find_mixture, mixtures_in
from moa_dspy.usage import LMCall, Usage
from moa_dspy.values import as_text, hash_of, to_jsonable

if TYPE_CHECKING:
    from moa_dspy.evaluation.comparison import Comparison

__all__ = ["Tracked", "track"]

_EVERY = 10.0  # seconds between two writings of the metrics, while the block goes


def track(
    program: dspy.Module,
    name: str | None = None,
    dataset: Any = None,
    *,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> AbstractContextManager[Tracked]:
    """Log what is done with a mixture inside a `with` block as one MLflow run, in MLflow's present experiment.

    Call it, evaluate it, answer a batch, compile it with any optimizer. The run holds a dozen metrics, written as the
    block goes, with the number of questions as their step: `score` (0 to 1) and `oracle` of each evaluation,
    `agreement`, `degraded_share`, `seconds_p50`, `seconds_p95`, and of all LM calls `calls`, `prompt_tokens`,
    `completion_tokens`, `cost_usd` (USD; `unpriced_calls` are not in it), `failed_calls`. What stands behind them are
    tables, the mixture and its prompts before and after, the data set; `docs/mlflow.md` shows them. No secrets.

    LM calls are counted in the block's context, and the mixture's own in any other thread too. The run is the active
    one of its thread, except in async code, where tasks share a thread. A store that does not answer costs one warning
    and a bounded time, never an answer: 10 seconds at the start (60 for one on this machine), 30 for the beginning and
    the end together. What is missing then is said.

    Args:
        program: The mixture, or a program with one.
        name: Of the run.
        dataset: What the block works on: examples, dicts, a pandas DataFrame or a data set of MLflow's.
        run_id: Go on with this run, instead of a new one.
        tags: The run's tags.

    Returns:
        A context manager that gives a `Tracked`.

    Raises:
        TypeError: If `program` is no module, or the data set is something else.
        ValueError: If the data set is empty.

    Examples:
        ```python
        with moa_dspy.track(moa, name="qa", dataset=val) as tracked:
            dspy.Evaluate(devset=val, metric=metric)(moa)
        print(tracked.run_id, tracked.usage.cost_usd)
        ```
    """
    if not isinstance(program, dspy.Module):
        raise TypeError(f"A moa_dspy.MoA, or a dspy.Module with one, is tracked, not a {type(program).__name__}.")
    return _track(program, name or "moa", _as_dataset(dataset), run_id, dict(tags or {}))


@contextmanager
def _track(
    program: dspy.Module, name: str, data: Dataset | None, run_id: str | None, tags: dict[str, str]
) -> Iterator[Tracked]:
    tracked, error = Tracked(program, name), None
    watch, mixtures = tracked.watch, mixtures_in(program)
    tracked.start(data, run_id, tags)
    for moa in mixtures:
        moa.callbacks = [*moa.callbacks, watch]
    try:
        with dspy.context(**watch.settings()):
            yield tracked
    except BaseException as raised:
        error = raised
        raise
    finally:
        for moa in mixtures:
            moa.callbacks = [callback for callback in moa.callbacks if callback is not watch]
        tracked.end(error)


class Tracked:
    """What `track` gives. It counts without a store too."""

    def __init__(self, program: dspy.Module, name: str) -> None:
        self.watch = Watch(program, self._changed)
        self._name = name
        self._run = Run()
        self._given: set[str] = set()
        self._evaluations = self._trials = self._compiles = 0
        self._optimizer: tuple[Any, Mapping[str, Any]] = (None, {})  # the present one, and what its compile was given
        self._tabled: set[str] = set()
        self._written = time.monotonic() - _EVERY  # the first answer is written, whatever comes after it

    @property
    def run_id(self) -> str | None:
        """The MLflow run; None if there is none, because the store is of no use."""
        return self._run.id

    @property
    def calls(self) -> list[LMCall]:
        """The LM calls so far."""
        return [call for _, call in self.watch.rows()]

    @property
    def usage(self) -> Usage:
        """All calls added up."""
        return Usage.of(self.calls)

    def log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Log further numbers, a `score` of your own perhaps: what you give stands, whatever was measured.

        Args:
            metrics: Name -> value.
        """
        given = {name: float(value) for name, value in metrics.items()}
        self._log_metrics(given)
        self._given |= set(given)

    def log_comparison(self, comparison: Comparison) -> None:
        """Log a comparison as one child run per system, for MLflow's compare page; here, `score` and `oracle`.

        Args:
            comparison: What `moa_dspy.evaluate` gave.
        """
        for row in comparison.rows:
            measured = {name: getattr(row, name) for name in _OF_A_SYSTEM}
            numbers = {name: float(value) for name, value in measured.items() if value is not None}
            self._run.log_child(row.name, numbers, {"system": row.name, "kind": row.kind})
        strategy = self.watch.mixture.strategy.name if self.watch.mixture is not None else ""
        scores = {"oracle" if row.kind == "oracle" else row.name: row.score for row in comparison.rows}
        wanted = {"score": scores.get(strategy), "oracle": scores.get("oracle")}
        self._log_metrics({name: value for name, value in wanted.items() if value is not None})
        self._run.log_text("comparison.json", _json(comparison.to_dict()))

    def start(self, data: Dataset | None, run_id: str | None, tags: Mapping[str, str]) -> None:
        """Start the run, and describe it in the background."""
        outer = dspy.settings.get(BLOCK)
        parent = {} if outer is None or outer.run_id is None else {"mlflow.parentRunId": outer.run_id}
        self._run.start(self._name, run_id, {**parent, **tags})
        self.watch.run_id = self._run.id
        if self.watch.mixture is not None:
            self._run.log("the parameters", params=_params(self.watch.mixture))
            self._log_mixture(self.watch.mixture)
        if data is not None:
            self._run.log_data(data)

    def end(self, error: BaseException | None) -> None:
        """Write what is left, and end the run."""
        self._log_metrics(tags={} if error is None else {"error": self._mask(describe(error))[:1000]})
        self._run.log_table("calls.json", tables.call_table(self.watch.rows()))
        self._log_proposals()
        self._run.end(error)

    def _changed(self, what: str, value: Any) -> None:
        """Write what is new; the watch tells it."""
        if self.run_id is None:
            return
        if what == "answer" and time.monotonic() - self._written > _EVERY:
            self._log_metrics()
        elif what == "evaluation" and value.is_trial:
            self._run.log("a trial's score", {"trial_score": value.score}, step=self._trials)
            self._trials += 1
        elif what == "evaluation":
            self._log_evaluation(value)
        elif what == "compile":
            self._optimizer, self._compiles = value, self._compiles + 1
            self._log_metrics(tags={"optimizer": self._optimizer_name})
            self._log_proposals()
            if self.watch.mixture is not None:
                self._register(self.watch.mixture, f"before {self._optimizer_name}")
        elif what == "compiled":
            self._log_compiled(None if value is None else find_mixture(value, self.watch.mixture))

    def _log_metrics(self, measured: Mapping[str, float] | None = None, tags: Mapping[str, str] | None = None) -> None:
        self._written = time.monotonic()
        answers = list(self.watch.answers)
        latest = [answer for answer in answers if answer.stage == answers[-1].stage]
        found = {"questions": len(answers), **tables.measure(self.calls, latest), **(measured or {})}
        new = {name: value for name, value in found.items() if name not in self._given}
        self._run.log("the metrics", new, tags=tags, step=len(answers))

    def _log_evaluation(self, evaluation: Evaluation) -> None:
        self._evaluations += 1
        oracle = tables.find_oracle(evaluation)
        self._log_metrics({"score": evaluation.score} | ({} if oracle is None else {"oracle": oracle}))
        table = tables.evaluation_table(evaluation, self._mask)
        self._run.log_table(f"evaluation{_suffix(self._evaluations)}.json", table)

    def _log_compiled(self, best: MoA | None) -> None:
        """The optimizer's settings and report, and what it made."""
        optimizer, inputs = self._optimizer
        settings = {**optimizer.get_params(), **inputs, **inputs.get("kwargs", {})}
        scalars = {name: value for name, value in settings.items() if isinstance(value, (bool, int, float, str))}
        described = {
            "optimizer": self._optimizer_name,
            "settings": without_secrets(scalars)[0],
            "report": getattr(optimizer, "report", None),
        }
        self._log_metrics()
        self._run.log_text(f"optimizer{_suffix(self._compiles)}.json", self._mask(_json(described)))
        if best is not None:
            self._log_mixture(best, f"_compiled{_suffix(self._compiles)}")
            self._register(best, f"compiled by {self._optimizer_name}")

    @property
    def _optimizer_name(self) -> str:
        return type(self._optimizer[0]).__name__

    def _log_mixture(self, moa: MoA, suffix: str = "") -> None:
        bare: Any = copy.copy(moa)
        if hasattr(bare, "candidate_programs"):  # which DSPy's optimizers hang on the best one, and no file holds
            del bare.candidate_programs
        self._run.log_text(f"prompts{suffix}.md", as_page(prompts_of(moa)))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "mixture.json")
            bare.save(file)
            self._run.log_text(f"mixture{suffix}.json", file.read_text())

    def _register(self, moa: MoA, message: str | None) -> None:
        prompts, name, run = prompts_of(moa), self._name, self._run
        run.write("the prompts", lambda id: register(moa, prompts, f"{run.experiment_name()}.{name}", id, message))

    def _log_proposals(self) -> None:
        for stage in dict.fromkeys(answer.stage for answer in self.watch.answers):
            if stage not in self._tabled and self.watch.mixture is not None:
                self._tabled.add(stage)
                answers = [answer for answer in self.watch.answers if answer.stage == stage]
                name = "proposals.json" if stage == "run" else f"proposals_{stage}.json"
                table = tables.proposal_table(answers, self.watch.mixture.signature, self._mask)
                self._run.log_table(name, table)

    def _mask(self, text: str) -> str:
        agents = [] if self.watch.mixture is None else self.watch.mixture.agents
        return redact(text, *(lm for agent in agents for lm in agent.lms))


_OF_A_SYSTEM = ("score", "calls", "prompt_tokens", "completion_tokens", "cost_usd", "seconds", "failures", "difference")


def _params(moa: MoA) -> dict[str, str]:
    """By what runs are told apart; the whole configuration is in `mixture.json`."""
    proposers = [agent.model or type(agent.program).__name__ for agent in moa.panels[0].agents]
    return {
        "strategy": moa.strategy.name,
        "signature": moa.signature.signature[:500],
        "proposers": ", ".join(proposers)[:500],
        "aggregator": str(moa.aggregator.model),
        "layers": str(len(moa.panels)),
        "num_proposals_per_model": str(moa.panels[0].samples),
        "use_specialized_prompts": str(moa.use_specialized_prompts),
    }


def _suffix(number: int) -> str:
    return "" if number == 1 else f"_{number}"


def _json(value: Any) -> str:
    return json.dumps(to_jsonable(value), ensure_ascii=False, indent=2)


def _as_dataset(data: Any) -> Dataset | None:
    """The data as MLflow knows it: its columns, its size and a digest; the rows themselves are not stored."""
    if data is None or isinstance(data, Dataset):
        return data
    if isinstance(data, Sequence) and all(isinstance(row, (dspy.Example, Mapping)) for row in data):
        data = pandas.DataFrame([dict(row.items()) for row in data])
    if not isinstance(data, pandas.DataFrame):
        raise TypeError(
            "A data set is a list of dspy.Examples or dicts, a pandas DataFrame or an mlflow.data Dataset, not "
            f"{data!r:.60} ({type(data).__name__})."
        )
    if data.empty:
        raise ValueError("The data set is empty: there is nothing to log. Leave dataset= out, or give its rows.")
    # MLflow wants columns of one type, and warns about whole numbers, which cannot be missing.
    columns = {str(name): [as_text(value) for value in data[name]] for name in data.columns}
    return from_pandas(pandas.DataFrame(columns), name="dataset", digest=hash_of(columns, 8))
