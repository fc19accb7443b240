"""Is this mixture worth its calls? Measured on examples, answered in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.evaluation import Comparison, Metric, evaluate
from moa_dspy.evaluation.evaluating import aggregator_as_proposer, default_strategies
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording
from moa_dspy.recording.budget import calls_per_answer, calls_per_verdict, count_rotations
from moa_dspy.strategies import Strategy, as_strategy

from .committee import Candidate, list_committees, pick
from .diagnosis import SELF_MOA, Diagnosis, Diversity, Recommendation, recommend
from .examples import ask_examples, check_mixture, checked_examples
from .mixtures import restricted
from .recipes import Budget
from .scoring import Scored
from .votes import Votes

__all__ = ["diagnose", "diagnosis_budget"]


def diagnose(
    moa: MoA,
    devset: Sequence[dspy.Example],
    metric: str | Metric = "exact",
    *,
    strategies: Sequence[str | Strategy] | None = None,
    self_moa: bool = True,
    recorded: Recording | None = None,
    concurrency: int = 8,
    seed: int = 0,
    path: str | Path | None = None,
    max_cost_usd: float | None = None,
    max_calls: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, planned: None,
) -> Diagnosis:
    """Find out whether a mixture pays, and why or why not.

    Every model is asked once per question, and its proposals serve everything: each model alone, the vote, the
    strategies, the committees, how errors correlate. The control asks anew: Self-MoA, the best proposer sampled as
    often as the panel makes calls, which is as many calls per question again. What a mixture gains, sampling one good
    model may gain too (Li et al., "Rethinking Mixture-of-Agents: Is Mixing Different Large Language Models
    Beneficial?", arXiv 2502.00674): only what is beyond that is due to mixing. `diagnosis_budget` tells beforehand.

    Args:
        moa: The mixture.
        devset: Examples with gold outputs.
        metric: As `evaluate` takes it.
        strategies: What to compare, by name or as objects; None means all that are built in.
        self_moa: Whether to ask for the control. Where it cannot be had (temperature 0, recorded answers), the
            diagnosis says so.
        recorded: An earlier recording of this mixture, whole or in part, that is not paid for again.
        concurrency: Questions under way at once; each asks its proposers side by side.
        seed: Of the comparison's bootstrap.
        path: A file to keep the answers in as they come; see `record`.
        max_cost_usd: What the diagnosis may cost; see `record`.
        max_calls: How many LM calls it may make; see `record`.
        on_progress: Called with the number of finished questions and of all, once more for the control.

    Raises:
        ValueError: If the examples or a strategy do not fit, or `recorded` is of another mixture.
        TypeError: If this is no mixture.
        ProposersUnreachable: If a proposer does not answer; as on `RecordingInterrupted` at Ctrl-C, on
            `RecordingStopped` at the end of the budget and on `MetricError`, what was recorded is its `recording`.

    Examples:
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob", "simulated/carol"], strategy="voting")
        >>> diagnosis = diagnose(moa, bundled_questions(), strategies=["voting"], self_moa=False)
        >>> diagnosis.recommendation.verdict, round(diagnosis.comparison.row("oracle").score, 2)
        ('mix', 0.97)
    """
    check_mixture(moa, "diagnose")
    require_positive(concurrency=concurrency)
    devset = checked_examples(moa, devset, metric, name="devset")
    scored = Scored(metric, moa.signature)
    scored.try_on_gold(devset[0])
    chosen, judge = _chosen(moa, strategies), aggregator_as_proposer(moa)
    others: dict[str, Any] = {} if judge is None else {judge.name: judge}
    asking: dict[str, Any] = {"strategies": chosen, "concurrency": concurrency, "on_progress": on_progress}
    budget = {"max_cost_usd": max_cost_usd, "max_calls": max_calls}

    def compare(known: Recording | None, **limits: Any) -> Comparison:
        found = ask_examples(moa, devset, recorded=known, others=others, path=path, **asking, **limits)
        settings: Any = {"strategies": chosen, "concurrency": concurrency, "seed": seed}
        return evaluate(moa, found, scored.with_two_arguments, **settings)

    comparison = compare(recorded, **budget)
    control = "No Self-MoA: it was not asked for."
    if self_moa:
        best = max(moa.panels[0].names, key=lambda name: comparison.scores(name).sum())
        times = len(moa.panels[0].names) * moa.panels[0].samples
        if (refusal := _refuse_control(moa, best)) is not None:
            control = f"No Self-MoA: {refusal}"
        else:
            control = f"Self-MoA: {best}, the best proposer, asked {times} times per question, as often as the panel."
            others[SELF_MOA + best] = restricted(moa, [best], times)
            comparison = compare(comparison.recording, **_left_of(budget, comparison.recording, recorded))
    votes = Votes.of_comparison(moa, comparison)
    made = list(list_committees(votes, len(votes.scores))) if votes.are_shares else []
    return Diagnosis(comparison, Diversity.of(votes), made, control, _recommend(comparison, made))


def diagnosis_budget(
    moa: MoA, questions: int, *, strategies: Sequence[str | Strategy] | None = None, self_moa: bool = True
) -> Budget:
    """What a diagnosis will take at most, to be known before it is spent; for arguments as those of `diagnose`."""
    proposals = calls_per_answer(moa) - calls_per_verdict(moa)
    can_ask = moa.aggregator.lm is not None or dspy.settings.lm is not None
    bound = [moa.strategy if one == moa.strategy.name else as_strategy(one) for one in _chosen(moa, strategies)]
    verdicts = sum(map(count_rotations, bound)) if can_ask else 0
    alone = int(aggregator_as_proposer(moa) is not None)
    is_possible = self_moa and len(moa.panels) == 1 and len(moa.panels[0].names) > 1
    control = proposals + calls_per_verdict(moa) if is_possible else 0
    formula = (
        f"{questions} questions x ({proposals} proposals + {verdicts + alone} of the aggregator + {control} Self-MoA)"
    )
    return Budget(questions * (proposals + verdicts + alone + control), 0, formula)


def _left_of(budget: dict[str, Any], recording: Recording, recorded: Recording | None) -> dict[str, Any]:
    """What the recording has left of a budget, what was recorded before not counted."""
    before = Recording().usage if recorded is None else recorded.usage
    calls = (recording.usage.calls - recording.usage.cache_hits) - (before.calls - before.cache_hits)
    spent = {"max_calls": calls, "max_cost_usd": (recording.usage.cost_usd or 0.0) - (before.cost_usd or 0.0)}
    # Where nothing is left it stops at once, with what there is.
    return {name: max(budget[name] - used, 1e-9) for name, used in spent.items() if budget[name] is not None}


def _recommend(comparison: Comparison, made: Sequence[Candidate]) -> Recommendation:
    rows = [row for row in comparison.rows if row.kind != "oracle"]
    singles = {row.name: comparison.scores(row.name) for row in rows if row.kind in ("proposer", "aggregator")}
    mixtures = {row.name: comparison.scores(row.name) for row in rows if row.name not in singles}
    calls = {row.name: 1.0 if row.name in singles else row.calls or 0.0 for row in rows}
    if made:  # of the committees only all together and what SelectCommittee would choose: the best of many is chance
        for one in (made[-1], pick(made)):
            if one.calls > 1:
                name = f"weighted {one}"
                mixtures[name], calls[name] = one.scores, one.calls
    return recommend(singles, mixtures, calls, percent=comparison.is_accuracy)


def _chosen(moa: MoA, strategies: Sequence[str | Strategy] | None) -> list[str | Strategy]:
    if strategies is not None:
        return [one if isinstance(one, Strategy) else as_strategy(one).name for one in strategies]
    return [*default_strategies(moa)]


def _refuse_control(moa: MoA, name: str) -> str | None:
    """Why sampling this proposer is no control; None if it is one."""
    agent: Any = getattr(moa.panels[0], name)
    if len(moa.panels) > 1:
        return "the mixture has several layers."
    if len(moa.panels[0].names) == 1:
        return "the mixture asks one model only."
    if agent.is_fixed:
        return f"the program of {name}, the best proposer, brings its own LMs, and cannot be sampled."
    if any(lm.kwargs.get("temperature") == 0 for lm in [*agent.lms, dspy.settings.lm] if lm is not None):
        return f"{name}, the best proposer, answers at temperature 0: its samples would be one answer."
    return None
