"""What a run shows: a dozen metrics by which runs are compared, and tables for everything behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import dspy
import numpy as np

from moa_dspy.moa import MoA
from moa_dspy.results import MoAPrediction
from moa_dspy.tracking.watch import Answer, Evaluation
from moa_dspy.usage import LMCall, Usage
from moa_dspy.values import as_text

__all__ = ["call_table", "evaluation_table", "find_oracle", "measure", "proposal_table"]

Table = list[dict[str, Any]]
Mask = Callable[[str], str]

_ROWS = 5000  # a table is one file, which MLflow's page loads whole
_CHARACTERS = 2000
_USAGE = {"calls", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced_calls", "failed_calls"}


def measure(calls: Iterable[LMCall], answers: Sequence[Answer]) -> dict[str, float]:
    """What these calls took, a cost that is not known left out, and how a mixture answered."""
    found: dict[str, float] = Usage.of(calls).model_dump(include=_USAGE, exclude_none=True)
    if answers:
        metadata = [answer.metadata for answer in answers]
        agreements = [one.agreement for one in metadata if one.agreement is not None]
        found |= {"agreement": fmean(agreements)} if agreements else {}
        found["degraded_share"] = fmean(answer.outputs is None or answer.metadata.degraded for answer in answers)
        found |= _seconds([one.seconds for one in metadata])
    return found


def call_table(rows: Sequence[tuple[str, LMCall]]) -> Table:
    """What each agent's calls of each model took, by stage of the block: seconds are those of one call."""
    groups: dict[tuple[str, str, str], list[LMCall]] = {}
    for stage, call in rows:
        groups.setdefault((stage, call.agent, call.model), []).append(call)
    table = []
    for (stage, agent, model), calls in groups.items():
        # What the cache answered took no model's time; how long an abandoned call would have taken is not known.
        seconds = [call.seconds for call in calls if not call.cache_hit and call.error != "Unfinished"]
        usage = Usage.of(calls).model_dump(exclude={"seconds"})
        table.append({"stage": stage, "agent": agent, "model": model, **usage, **_seconds(seconds)})
    return table


def proposal_table(answers: Sequence[Answer], task: type[dspy.Signature], mask: Mask) -> Table:
    """Who proposed what: one row per proposal or failure, the first 5,000.

    Columns: `call` (from 1), `input_*`, `agent`, `model`, `layer`, `sample`, `output_*`, `chosen` (None where the
    strategy wrote an answer of its own), `answer_*`, `seconds`, `error`. MLflow's page cannot show names with dots.
    """
    rows: list[dict[str, Any]] = []
    for number, answer in enumerate(answers, start=1):
        metadata = answer.metadata
        asked = {"call": number, **_cells("input", task.input_fields, answer.inputs, mask)}
        answered = _cells("answer", task.output_fields, answer.outputs or {}, mask)
        for one in metadata.all_proposals:
            said = one.model_dump(include={"agent", "model", "layer", "sample"})
            said |= _cells("output", task.output_fields, one.outputs, mask)
            chosen = None if metadata.selected is None else one.id == metadata.selected
            rows.append({**asked, **said, "chosen": chosen, **answered, "seconds": one.seconds, "error": None})
        for failure in metadata.failures:
            failed = failure.model_dump(include={"agent", "model", "seconds"})
            rows.append({**asked, **failed, **answered, "error": mask(f"{failure.error}: {failure.message}")})
    return rows[:_ROWS]


def evaluation_table(evaluation: Evaluation, mask: Mask) -> Table:
    """One row per example: its fields as `example_*`, the prediction's as `pred_*`, and the score."""
    return [
        {
            **_cells("example", example, example, mask),
            **_cells("pred", prediction, prediction, mask),
            "score": _number(score),
        }
        for example, prediction, score in evaluation.results[:_ROWS]
    ]


def find_oracle(evaluation: Evaluation) -> float | None:
    """The mean score of each question's best proposal; None where it would cost something, or there are none."""
    if evaluation.asked or not isinstance(evaluation.program, MoA):  # a metric that asks a model asks it again
        return None
    best = []
    for example, prediction, _ in evaluation.results:
        proposals = prediction.proposals if isinstance(prediction, MoAPrediction) else []
        said = {as_text(proposal.outputs): proposal.outputs for proposal in proposals}
        scores = [_number(evaluation.metric(example, dspy.Prediction(**outputs))) for outputs in said.values()]
        best.append(max((score for score in scores if score is not None), default=0.0))
    return fmean(best) if best else None


def _number(score: Any) -> float | None:
    try:
        return float(getattr(score, "score", score))
    except (TypeError, ValueError):
        return None


def _seconds(seconds: Sequence[float]) -> dict[str, Any]:
    p50, p95 = np.percentile(seconds, [50, 95]).tolist() if seconds else (None, None)
    return {"seconds_p50": p50, "seconds_p95": p95}


def _cells(kind: str, names: Iterable[str], values: Mapping[str, Any], mask: Mask) -> dict[str, Any]:
    return {f"{kind}_{name}": _cell(values[name], mask) for name in names if name in values}


def _cell(value: Any, mask: Mask) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = mask(as_text(value))
    more = len(text) - _CHARACTERS
    return text if more <= 0 else f"{text[:_CHARACTERS]} [... {more} characters more]"
