"""Is this mixture worth its calls? Measured on examples, answered in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import dspy

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import Metric
from moa_dspy.evaluation.systems import Field
from moa_dspy.moa import MoA
from moa_dspy.strategies import Strategy

from .budgets import Budget
from .collecting import MAX_OUTAGES, check_recording, collect, keeping
from .committees import Committee, best_committees, pick
from .diagnosis import Diagnosis
from .diversity import Diversity
from .feedback import metric_name, plain_metric
from .recommending import Recommendation, recommend
from .self_moa import Control, control_calls, with_self_moa
from .students import check_mixture, checked_examples
from .vote_matrix import VoteMatrix

__all__ = ["diagnose", "diagnosis_budget"]


def diagnose(
    moa: MoA,
    devset: Sequence[dspy.Example],
    metric: str | Metric = "exact",
    *,
    strategies: Sequence[str | Strategy] | None = None,
    self_moa: bool = True,
    recorded: Comparison | None = None,
    max_outages: float = MAX_OUTAGES,
    concurrency: int = 8,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Diagnosis:
    """Find out whether a mixture pays, and why or why not.

    Every model is asked once per question, and its proposals serve everything: each model alone, the vote, the
    strategies, the committees, how errors correlate. The control asks anew: Self-MoA, the best proposer sampled as
    often as the panel makes calls, which is as many calls per question again. `diagnosis_budget` tells beforehand.

    Args:
        moa: The mixture.
        devset: Examples with gold outputs.
        metric: As `evaluate` takes it.
        strategies: What to compare, by name or as objects; None means all that are built in.
        self_moa: Whether to ask for the control. Where it cannot be had (temperature 0, recorded answers), the
            diagnosis says so.
        recorded: An earlier comparison of this mixture, whole or in part, that is not paid for again.
        max_outages: The share of an agent's proposals that may be missing because its LM could not be reached.
        concurrency: Questions under way at once; each asks its proposers side by side.
        seed: Of the bootstrap.
        on_progress: Called with the number of finished questions and of all, once more for the control.

    Raises:
        ValueError: As `evaluate`; if `recorded` is of another mixture, metric or set of strategies.
        MetricError: As `evaluate`, EvaluationInterrupted: as `evaluate`, ProposersUnreachable: if a proposer does not
            answer. What was recorded is on each, as `comparison`.
        TooFewProposals: As `evaluate`.

    Example:
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob", "simulated/carol"], strategy="voting")
        >>> diagnosis = diagnose(moa, bundled_questions(), strategies=["voting"], self_moa=False)
        >>> diagnosis.recommendation.verdict, round(diagnosis.diversity.oracle, 2)
        ('mix', 0.97)
    """
    check_mixture(moa, "diagnose")
    check_recording(max_outages, concurrency)
    devset = checked_examples(moa, devset, metric, name="devset")
    metric = plain_metric(metric, moa.signature)
    _refuse_others(moa, strategies, metric, recorded)
    comparison = collect(
        moa,
        devset,
        metric,
        recorded=recorded,
        max_outages=max_outages,
        concurrency=concurrency,
        on_progress=on_progress,
        strategies=strategies,
        seed=seed,
    )
    control = Control(comparison, [], "No Self-MoA: it was not asked for.")
    if self_moa:
        with keeping(comparison):
            control = with_self_moa(moa, comparison, metric, concurrency=concurrency, on_progress=on_progress)
    matrix = VoteMatrix.of(comparison.records, moa)
    has_shares = bool(((matrix.scores >= 0) & (matrix.scores <= 1)).all())
    committees = best_committees(matrix, seed=seed) if has_shares else []
    recommendation = _recommended(control.comparison, committees, seed)
    diversity = Diversity.of(matrix, seed)
    return Diagnosis(control.comparison, diversity, committees, control.names, control.note, recommendation)


def diagnosis_budget(
    moa: MoA, questions: int, *, strategies: Sequence[str | Strategy] | None = None, self_moa: bool = True
) -> Budget:
    """What a diagnosis will take at most, to be known before it is spent; for arguments as those of `diagnose`."""
    field = Field(moa, strategies)
    proposals = sum(len(panel.names) * panel.samples for panel in moa.panels)
    bound = [aggregator.program for aggregator in field.aggregators.values() if aggregator.lm or dspy.settings.lm]
    verdicts = sum(int(getattr(strategy, "rotations", 1)) for strategy in bound)
    alone, control = int(field.judge is not None), control_calls(moa) if self_moa else 0
    formula = (
        f"{questions} questions x ({proposals} proposals + {verdicts + alone} of the aggregator + {control} Self-MoA)"
    )
    return Budget(questions * (proposals + verdicts + alone + control), 0, formula)


def _recommended(comparison: Comparison, committees: Sequence[Committee], seed: int) -> Recommendation:
    rows = {row.name: row for row in comparison.rows if row.kind != "oracle"}
    is_single = {name: row.kind in ("proposer", "aggregator") for name, row in rows.items()}
    scores = {name: comparison.scores(name) for name in rows}
    calls = {name: 1.0 if is_single[name] else row.calls or 0.0 for name, row in rows.items()}
    mixtures = {name: scores[name] for name in rows if not is_single[name]}
    for made in _worth_considering(committees):
        if made.calls > 1:
            times = f", each {made.samples} times" if made.samples > 1 else ""
            name = f"the weighted vote of {', '.join(made.agents)}{times}"
            mixtures[name], calls[name] = made.scores, float(made.calls)
    return recommend({name: scores[name] for name in rows if is_single[name]}, mixtures, calls, seed=seed)


def _worth_considering(committees: Sequence[Committee]) -> Sequence[Committee]:
    """All agents together, and the committee that `SelectCommittee` would choose: the best of many is chance."""
    if not committees:
        return []
    chosen = pick([made.scores for made in committees], [made.calls for made in committees])
    return list({made.agents: made for made in (committees[-1], committees[chosen])}.values())


def _refuse_others(
    moa: MoA, strategies: Sequence[str | Strategy] | None, metric: str | Metric, recorded: Comparison | None
) -> None:
    if recorded is None or not recorded.records:
        return
    wanted = [system.name for system in Field(moa, strategies).systems]
    there = [system.name for system in recorded.systems]
    name = metric_name(metric)
    if wanted != there or recorded.metric != name:
        raise ValueError(
            f"What is recorded compares {', '.join(there)} by {recorded.metric}, and this diagnosis wants "
            f"{', '.join(wanted)} by {name}. Give the same strategies and metric as then, or no recorded comparison."
        )
