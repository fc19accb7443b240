"""What a run shows: a dozen metrics by which runs are compared, and tables for everything behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

import dspy
import numpy as np

from moa_dspy.results import MoAPrediction
from moa_dspy.tracking.watch import Answer
from moa_dspy.usage import LMCall, Usage
from moa_dspy.values import as_text

__all__ = ["call_table", "evaluation_table", "find_oracle", "measure", "proposal_table"]

Table = list[dict[str, Any]]

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


def proposal_table(answers: Sequence[Answer]) -> Table:
    """Who proposed what: one row per proposal or failure.

    Columns: `call` (from 1), `input_*`, `agent`, `model`, `layer`, `sample`, `output_*`, `chosen` (None where the
    strategy wrote an answer of its own), `answer_*`, `seconds`, `error`. MLflow's page cannot show names with dots.
    """
    rows: Table = []
    for number, answer in enumerate(answers, start=1):
        metadata = answer.metadata
        asked, answered = {"call": number, **_named("input", answer.inputs)}, _named("answer", answer.outputs or {})
        for one in metadata.all_proposals:
            said = one.model_dump(include={"agent", "model", "layer", "sample"}) | _named("output", one.outputs)
            chosen = None if metadata.selected is None else one.id == metadata.selected
            rows.append({**asked, **said, "chosen": chosen, **answered, "seconds": one.seconds, "error": None})
        for failure in metadata.failures:
            failed = failure.model_dump(include={"agent", "model", "seconds"})
            rows.append({**asked, **failed, **answered, "error": f"{failure.error}: {failure.message}"})
    return rows


def evaluation_table(results: Sequence[tuple[Any, Any, Any]]) -> Table:
    """One row per example: its fields as `example_*`, the prediction's as `pred_*`, and the score."""
    return [
        {**_named("example", example), **_named("pred", prediction), "score": _number(score)}
        for example, prediction, score in results
    ]


def find_oracle(metric: Any, results: Sequence[tuple[Any, Any, Any]]) -> float | None:
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


def _seconds(seconds: Sequence[float]) -> dict[str, Any]:
    p50, p95 = np.percentile(seconds, [50, 95]).tolist() if seconds else (None, None)
    return {"seconds_p50": p50, "seconds_p95": p95}


def _named(kind: str, values: Any) -> dict[str, Any]:
    return {f"{kind}_{name}": value for name, value in values.items()}
