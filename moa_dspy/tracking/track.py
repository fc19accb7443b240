"""A block of work with a mixture as one MLflow run."""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import dspy
import pandas
from mlflow.data.dataset import Dataset
from mlflow.data.pandas_dataset import from_pandas

from moa_dspy.moa import MoA
from moa_dspy.results import MoAPrediction
from moa_dspy.secrets import redact, without_secrets
from moa_dspy.tracking.prompts import as_page, prompts_of, register
from moa_dspy.tracking.run import Run
from moa_dspy.tracking.store import describe
from moa_dspy.tracking.watch import BLOCK, Watch, find_mixture, metadata_of, named, suffix
from moa_dspy.usage import Usage
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
    `completion_tokens`, `cost_usd` (USD; `unpriced_calls` are not in it), `failed_calls`. Beside them are tables, the
    mixture and its prompts before and after, the data set (see `docs/mlflow.md`). No secrets.

    LM calls are counted in the block's context, and the mixture's own in any other thread too. The run is the active
    one of its thread, except in async code, where tasks share a thread. A store that does not answer costs one warning
    and a bounded time, never an answer: 10 seconds at the start (60 for one on this machine), 30 in all.

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
    return Tracked(program, name or "moa", _as_dataset(dataset), run_id, dict(tags or {}))


class Tracked(Watch):
    """What `track` gives. It counts without a store too."""

    def __init__(
        self, program: dspy.Module, name: str, data: Dataset | None, run_id: str | None, tags: dict[str, str]
    ) -> None:
        super().__init__(program)
        self._name, self._data = name, data
        self._given_id, self._tags = run_id, tags
        self._run = Run()
        self._context: Any = None
        self._given: set[str] = set()
        self._evaluating: dict[str, tuple[Any, int]] = {}  # the metric, and the calls that no agent made before it
        self._evaluations = self._trials = 0
        self._optimizer: tuple[Any, Mapping[str, Any]] = (None, {})  # the present one, and what its compile was given
        self._tabled: set[str] = set()
        self._written = time.monotonic() - _EVERY  # the first answer is written, whatever comes after it

    @property
    def run_id(self) -> str | None:
        """The MLflow run; None if there is none, because the store is of no use."""
        return self._run.id

    @property
    def usage(self) -> Usage:
        """All calls added up."""
        return Usage.of(self.calls())

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
        strategy = self.mixtures[0].strategy.name if self.mixtures else ""
        scores = {"oracle" if row.kind == "oracle" else row.name: row.score for row in comparison.rows}
        self._log_metrics({"score": scores.get(strategy), "oracle": scores.get("oracle")})
        self._run.log_text("comparison.json", _json(comparison.to_dict()))

    def __enter__(self) -> Tracked:
        outer = dspy.settings.get(BLOCK)
        parent = {} if outer is None or outer.run_id is None else {"mlflow.parentRunId": outer.run_id}
        self._run.start(self._name, self._given_id, {**parent, **self._tags})
        if self.mixtures:
            self._run.log("the parameters", params=_params(self.mixtures[0]))
            self._log_mixture(self.mixtures[0])
        if self._data is not None:
            self._run.log_data(self._data)
        for moa in self.mixtures:
            moa.callbacks = [*moa.callbacks, self]
        self._context = dspy.context(**self.settings())
        self._context.__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self._context.__exit__(kind, error, traceback)
        for moa in self.mixtures:
            moa.callbacks = [callback for callback in moa.callbacks if callback is not self]
        self._log_metrics(tags={} if error is None else {"error": describe(error)[:1000]})
        self._run.log_table("calls.json", self.call_table())
        self._log_proposals()
        self._run.end(error)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        super().on_module_end(call_id, outputs, exception)
        if time.monotonic() - self._written > _EVERY and metadata_of(outputs, exception) is not None:
            self._log_metrics()

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._evaluating[call_id] = inputs.get("metric") or instance.metric, self.asked_by_no_agent()

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        metric, asked = self._evaluating.pop(call_id, (None, 0))
        if metric is None or exception is not None or self.run_id is None:
            return
        score = float(outputs.score) / 100
        if self.is_compiling:
            self._run.log("a trial's score", {"trial_score": score}, step=self._trials)
            self._trials += 1
            return
        self._evaluations += 1
        # A metric that asks a model would ask, and cost, again.
        oracle = _find_oracle(metric, outputs.results) if self.asked_by_no_agent() == asked else None
        self._log_metrics({"score": score, "oracle": oracle})
        rows = [
            {**named("example", example), **named("pred", prediction), "score": _number(score)}
            for example, prediction, score in outputs.results
        ]
        self._run.log_table(f"evaluation{suffix(self._evaluations)}.json", rows)

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        is_inside = self.is_compiling
        super().on_compile_start(call_id, instance, inputs)
        if not is_inside:
            self._optimizer = instance, inputs
            self._log_metrics(tags={"optimizer": type(instance).__name__})
            self._log_proposals()
            for moa in self.mixtures[:1]:
                self._register(moa, f"before {type(instance).__name__}")

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        super().on_compile_end(call_id, outputs, exception)
        if self.is_compiling:
            return
        optimizer, inputs = self._optimizer
        name, number = type(optimizer).__name__, suffix(self._compiled)
        settings = {**optimizer.get_params(), **inputs, **inputs.get("kwargs", {})}
        scalars = {name: value for name, value in settings.items() if isinstance(value, (bool, int, float, str))}
        report = getattr(optimizer, "report", None)
        described = {"optimizer": name, "settings": without_secrets(scalars)[0], "report": report}
        self._log_metrics()
        self._run.log_text(f"optimizer{number}.json", redact(_json(described)))
        best = find_mixture(outputs, self.mixtures[0]) if self.mixtures else None
        if best is not None:
            self._log_mixture(best, f"_compiled{number}")
            self._register(best, f"compiled by {name}")

    def _log_metrics(
        self, measured: Mapping[str, float | None] | None = None, tags: Mapping[str, str] | None = None
    ) -> None:
        self._written = time.monotonic()
        found = {**self.measure(), **(measured or {})}
        new = {name: value for name, value in found.items() if value is not None and name not in self._given}
        self._run.log("the metrics", new, tags=tags, step=int(found["questions"] or 0))

    def _log_mixture(self, moa: MoA, which: str = "") -> None:
        bare: Any = copy.copy(moa)
        vars(bare).pop("candidate_programs", None)  # which DSPy's optimizers hang on the best one, and no file holds
        self._run.log_text(f"prompts{which}.md", as_page(prompts_of(moa)))
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "mixture.json")
            bare.save(file)
            self._run.log_text(f"mixture{which}.json", file.read_text())

    def _register(self, moa: MoA, message: str) -> None:
        prompts, name, run = prompts_of(moa), self._name, self._run
        run.write("the prompts", lambda id: register(moa, prompts, f"{run.experiment_name()}.{name}", id, message))

    def _log_proposals(self) -> None:
        for stage in dict.fromkeys(answer.stage for answer in self.answers):
            if stage not in self._tabled:
                self._tabled.add(stage)
                name = "proposals.json" if stage == "run" else f"proposals_{stage}.json"
                self._run.log_table(name, self.proposal_table(stage))


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


def _find_oracle(metric: Any, results: Sequence[tuple[Any, Any, Any]]) -> float | None:
    """The mean score of each question's best proposal; None where there are no proposals."""
    best = []
    for example, prediction, _ in results:
        proposals = prediction.proposals if isinstance(prediction, MoAPrediction) else []  # of a call that failed
        said = {as_text(proposal.outputs): proposal.outputs for proposal in proposals}
        scores = [_number(metric(example, dspy.Prediction(**outputs))) for outputs in said.values()]
        best.append(max((score for score in scores if score is not None), default=0.0))
    return fmean(best) if any(isinstance(prediction, MoAPrediction) for _, prediction, _ in results) else None


def _number(score: Any) -> float | None:
    try:
        return float(getattr(score, "score", score))
    except (TypeError, ValueError):
        return None


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
