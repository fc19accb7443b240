"""One of several options, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from moa_dspy.evaluation.intervals import difference_interval, mean_interval
from moa_dspy.usage import Usage

from .committee_report import Candidate, CommitteeReport
from .committees import pick
from .report import added
from .selecting import Option

__all__ = ["choose"]


def choose(
    options: Sequence[Option],
    standard_errors: float | None,
    *,
    in_usd: bool,
    has_valset: bool,
    recorded: Usage,
    seed: int,
) -> tuple[Option, CommitteeReport]:
    """Choose.

    Args:
        options: At least one.
        standard_errors: See `pick`.
        in_usd: Whether the cheapest is the one with the least USD, not calls.
        has_valset: Whether scores are of a valset; else they are corrected for having been chosen by.
        recorded: What recording the proposals took.
        seed: Of the bootstrap.
    """
    costs: list[Any] = [option.cost_usd if in_usd else option.calls for option in options]
    scores = [option.scores for option in options]
    chosen, thrifty = pick(scores, costs, standard_errors), pick(scores, costs, 1.0)
    singles = [
        number
        for number, option in enumerate(options)
        if option.mixture.strategy.name == "voting" and option.calls == 1
    ]
    reference = options[singles[0]] if singles else options[0]
    where = f"on {len(scores[0])} examples" + (
        " of the valset" if has_valset else ", less what choosing on them flatters"
    )
    candidates = [_candidate(option, reference, seed) for option in options]
    report = CommitteeReport(
        candidates=candidates,
        chosen=candidates[chosen],
        thrifty=candidates[thrifty],
        questions=len(scores[0]),
        reason=_reason(candidates, candidates[chosen], candidates[thrifty], where),
        usage=added([recorded, *(option.usage for option in options)]),
    )
    return options[chosen], report


def _candidate(option: Option, reference: Option, seed: int) -> Candidate:
    panel = option.mixture.panels[0]
    return Candidate(
        agents=list(panel.names),
        samples=panel.samples,
        strategy=option.mixture.strategy.name,
        weights=dict(option.weights),
        calls=option.calls,
        cost_usd=option.cost_usd,
        score=float(option.scores.mean()),
        interval=mean_interval(option.scores, seed=seed),
        gain=float(option.scores.mean() - reference.scores.mean()),
        gain_interval=difference_interval(option.scores, reference.scores, seed=seed),
    )


def _reason(candidates: Sequence[Candidate], chosen: Candidate, thrifty: Candidate, where: str) -> str:
    single = next((candidate for candidate in candidates if candidate.is_single), None)
    if single is chosen:
        best = max((c for c in candidates if c is not chosen), key=lambda candidate: candidate.score, default=None)
        rest = f" The best of the others, {best}, scores {best.score:.3f} with {best.calls:.3g} calls." if best else ""
        return f"Use {chosen}: it scores {chosen.score:.3f} {where}.{rest}"
    said = (
        f"{str(chosen)[0].upper()}{str(chosen)[1:]}, {chosen.calls:.3g} calls per question: {chosen.score:.3f} {where}"
    )
    if single is not None:
        low, high = chosen.gain_interval
        said += f", against {single.score:.3f} of {single} ({chosen.gain:+.3f}, 95% {low:+.3f} to {high:+.3f})"
    if single is not None and chosen.gain_interval.low <= 0:
        said += ". The gain may be chance, which more examples would tell"
    if thrifty is not chosen:
        said += f". Within one standard error of the best: {thrifty}, {thrifty.calls:.3g} calls"
    return f"{said}."
