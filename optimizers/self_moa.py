"""The control of every mixture: its best model asked as often, with nobody else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy

from moa_dspy.errors import MoAError
from moa_dspy.evaluation import evaluate
from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import Metric
from moa_dspy.evaluation.records import Record, System
from moa_dspy.evaluation.systems import VOTE
from moa_dspy.moa import MoA

from .restricting import restricted

__all__ = ["Control", "control_calls", "with_self_moa"]


@dataclass(frozen=True)
class Control:
    """A comparison with Self-MoA in it, if that could be had.

    Attributes:
        comparison: With a row for the vote, and one for the mixture's own strategy if that asks an aggregator.
        names: These rows.
        note: What was compared, or why it could not be.
    """

    comparison: Comparison
    names: Sequence[str]
    note: str


def with_self_moa(moa: MoA, comparison: Comparison, metric: str | Metric, **settings: Any) -> Control:
    """Ask the best proposer as often as the whole panel was, and add what comes of it to the comparison.

    What a mixture gains, sampling one good model may gain too (Li et al., "Rethinking Mixture-of-Agents: Is Mixing
    Different Large Language Models Beneficial?", arXiv 2502.00674): only what is beyond that is due to mixing.

    Args:
        moa: The mixture.
        comparison: Of its models and strategies.
        metric: As `evaluate` takes it.
        **settings: Further arguments of `evaluate`.
    """
    proposers = [system.name for system in comparison.systems if system.kind == "proposer"]
    best = max(proposers, key=lambda name: comparison.scores(name).sum())
    times = _calls(moa)
    refusal = _cannot_sample(moa, best, times)
    if refusal is not None:
        return Control(comparison, [], f"No Self-MoA: {refusal}")
    own = [moa.strategy.name] if moa.strategy.needs_aggregator else []
    examples = [record.example for record in comparison.records]
    try:
        mixture = restricted(moa, [best], samples=times)
        sampled = evaluate(mixture, examples, metric, strategies=own, aggregator_alone=False, **settings)
    except MoAError as error:
        return Control(comparison, [], f"No Self-MoA: {error}")
    if all(len({repr(answer.outputs) for answer in record.proposals.values()}) == 1 for record in sampled.records):
        why = (
            f"all {times} samples of {best} were the same answer, on every question (recorded, cached, or not sampled)."
        )
        return Control(comparison, [], f"No Self-MoA: {why}")
    rows = {VOTE: f"Self-MoA of {best}", **{name: f"Self-MoA of {best}, {name}" for name in own}}
    note = f"Self-MoA: {best}, the best proposer, asked {times} times per question, as often as the whole panel is."
    return Control(_merged(comparison, sampled, rows), list(rows.values()), note)


def control_calls(moa: MoA) -> int:
    """LM calls per question that Self-MoA takes."""
    times = _calls(moa)
    if len(moa.panels[0].names) == 1 or times == 1:
        return 0
    return times + (int(getattr(moa.strategy, "rotations", 1)) if moa.strategy.needs_aggregator else 0)


def _calls(moa: MoA) -> int:
    return len(moa.panels[0].names) * moa.panels[0].samples


def _cannot_sample(moa: MoA, name: str, times: int) -> str | None:
    agent: Any = getattr(moa.panels[0], name)
    if len(moa.panels) > 1:
        return "the mixture has several layers."
    if len(moa.panels[0].names) == 1 or times == 1:
        return "the mixture asks one model only."
    if agent.is_fixed:
        return f"the program of {name}, the best proposer, brings its own LMs, and cannot be sampled."
    if any(lm.kwargs.get("temperature") == 0 for lm in [*agent.lms, dspy.settings.lm] if lm is not None):
        return f"{name}, the best proposer, answers at temperature 0: its samples would be one answer."
    return None


def _merged(comparison: Comparison, sampled: Comparison, names: Mapping[str, str]) -> Comparison:
    models = next(system.models for system in sampled.systems if system.kind == "proposer")
    systems = [system for system in comparison.systems if system.kind != "oracle"]
    systems += [System(name, "other", models) for name in names.values()]
    systems += [system for system in comparison.systems if system.kind == "oracle"]
    records = [_with(ours, theirs, names) for ours, theirs in zip(comparison.records, sampled.records, strict=True)]
    return replace(comparison, systems=systems, records=records)


def _with(record: Record, sampled: Record, names: Mapping[str, str]) -> Record:
    answers = {new: sampled.answers[old] for old, new in names.items()}
    return replace(record, answers={**record.answers, **answers}, calls=[*record.calls, *sampled.calls])
