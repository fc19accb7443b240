"""A comparison of systems as MLflow runs: one child per system, side by side on MLflow's compare page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.comparison_row import Row

__all__ = ["comparison_metrics", "systems"]


def systems(comparison: Comparison) -> Iterator[tuple[str, dict[str, str], dict[str, float]]]:
    """Name, parameters and metrics of each system; what it takes is the mean per question."""
    for system, row in zip(comparison.systems, comparison.rows, strict=False):
        params = {"system": system.name, "kind": system.kind, "models": ", ".join(system.models)}
        yield (
            system.name,
            params | {"metric": comparison.metric},
            _metrics(row) | {"questions": len(comparison.records)},
        )


def comparison_metrics(comparison: Comparison, strategy: str) -> dict[str, float]:
    """For the mixture itself: its own strategy's score, the oracle's, and that of the best model alone."""
    scores = {row.name: row.score for row in comparison.rows}
    wanted = {"score": strategy, "oracle": "oracle", "best_single_score": comparison.best_single if scores else ""}
    return {metric: scores[system] for metric, system in wanted.items() if system in scores}


def _metrics(row: Row) -> dict[str, float]:
    found: Mapping[str, Any] = {
        "score": row.score,
        "score_low": row.interval.low,
        "score_high": row.interval.high,
        "gain": row.difference,
        "gain_low": row.difference_interval and row.difference_interval.low,
        "gain_high": row.difference_interval and row.difference_interval.high,
        "calls_per_question": row.calls,
        "prompt_tokens_per_question": row.prompt_tokens,
        "completion_tokens_per_question": row.completion_tokens,
        "cost_usd_per_question": row.cost_usd,
        "seconds_per_question": row.seconds,
        "failures": row.failures,
        "fallbacks": row.fallbacks,
        "cached": row.cached,
    }
    return {name: float(value) for name, value in found.items() if value is not None}
