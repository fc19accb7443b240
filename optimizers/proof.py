"""What certainty is worth on a recording: learned from a part of its questions, judged on the rest, many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from rich.console import Group, RenderableType

from moa_dspy.certainty import find_threshold, list_cuts
from moa_dspy.dispatch import estimate
from moa_dspy.evaluation import Comparison, Interval, difference_interval, wilson
from moa_dspy.moa import MoA

from .committee import list_committees, pick
from .fit_cascade import Committees, find_stop, list_stops
from .fit_route import route_held_out
from .reports import Report, list_table
from .vote_weights import accuracies
from .votes import Floats, Votes, is_win

__all__ = ["Proof", "ProofRow", "prove", "prove_votes"]

SINGLE, PLURALITY, ROUTE = "best single", "plurality", "route"
PROMISES = (0.05, 0.1)
LOSSES = (0.0, 0.01, 0.02)


@dataclass(frozen=True)
class ProofRow:
    """One system, over all splits; each interval is one of 95%."""

    name: str
    right: float | None  # the share of right answers among those given
    answered: float  # the share of questions that are answered
    calls: float  # per question
    gain: tuple[float, Interval] | None = None  # over the better of best single and plurality, if all is answered
    promise: float | None = None  # the share of wrong answers that was promised
    kept: tuple[float, Interval] | None = None  # the share of splits in which the promise was kept
    refused: float | None = None  # the share of splits in which nothing was promised


@dataclass(frozen=True)
class Proof(Report):
    """What each system gives on questions that it was not learned from."""

    rows: Sequence[ProofRow]
    questions: int
    splits: int  # how often they were split anew
    share: float = 0.2  # of the questions, to learn from

    def table(self, title: str = "") -> RenderableType:
        """The rows as two rich tables, in percent: what is answered whole, and what is promised."""
        whole, promised = list[list[str]](), list[list[str]]()
        for row in self.rows:
            if row.gain is not None:
                whole.append([row.name, _percent(row.right), f"{row.calls:.2f}", *_with_interval(row.gain, "+.1f")])
            else:
                wrong = None if row.right is None else 1 - row.right
                kept = _with_interval(row.kept, ".1f")
                promised.append([row.name, _percent(row.answered), _percent(wrong), *kept, _percent(row.refused)])
        return Group(
            f"{title}{self.questions} questions, learned from {self.share:.0%}, {self.splits} splits.\n",
            list_table(["all answered, %", "right", "calls", "gain", "95%"], whole),
            "gain: points above the better of best single and plurality.\n",
            list_table(["a promise, %", "answered", "wrong", "kept", "95%", "refused"], promised),
            "kept: splits with no more wrong answers than promised; refused: splits that bore no promise.",
        )


def prove(
    moa: MoA,
    comparison: Comparison,
    *,
    by: str | None = None,
    splits: int = 200,
    share: float = 0.2,
    on_split: Callable[[int], None] = lambda split: None,
) -> Proof:
    """What committees, routes, cascades and promises are worth on the answers of a comparison; nobody is asked.

    Args:
        moa: The mixture that was compared.
        comparison: What `evaluate` gave, of 100 questions or more; of a recording too.
        by: The field of the questions to route by; None: no route.
        splits: How often the questions are split into those learned from and those judged on.
        share: Of the questions, to learn from.
        on_split: Called with the number of splits that are done.

    Raises:
        ValueError: If there are too few questions, or scores are neither 0 nor 1.

    Examples:
        >>> from moa_dspy import MoA, evaluate
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> moa = MoA("question -> answer", [f"simulated/{n}" for n in ("alice", "bob", "carol")], strategy="voting")
        >>> proof = prove(moa, evaluate(moa, bundled_questions(), strategies=[]), splits=5)
        >>> [row.name for row in proof.rows][:3]
        ['best single', 'plurality', 'committee']
    """
    keys = None if by is None else [str(question.example.get(by)) for question in comparison.questions]
    return prove_votes(Votes.of_comparison(moa, comparison), keys, splits, share, on_split)


def prove_votes(
    votes: Votes,
    keys: Sequence[Any] | None = None,
    splits: int = 200,
    share: float = 0.2,
    on_split: Callable[[int], None] = lambda split: None,
) -> Proof:
    """The same of recorded votes; `keys` are the questions' categories or embeddings, to route by.

    In each split everything is learned from one part of the questions, by the functions that the optimizers use, and
    judged on the rest.
    """
    questions = len(votes.scores)
    if questions * share < 20 or not 0 < share < 1:
        raise ValueError(
            f"A share of {share:g} of {questions} questions is too little to learn from: give 20 questions or more, "
            "and leave some to judge on."
        )
    if not np.isin(votes.scores, (0, 1)).all():
        raise ValueError("A proof needs scores that say right (1) or wrong (0).")
    found: dict[str, list[_Result]] = {}
    for split in range(splits):
        order = np.random.default_rng(split).permutation(questions)
        learned, judged = np.split(order, [round(share * questions)])
        routed = None if keys is None else ([keys[n] for n in learned], [keys[n] for n in judged])
        for name, result in _try(votes.rows(learned), votes.rows(judged), routed):
            found.setdefault(name, []).append(result._replace(judged=judged))
        on_split(split + 1)
    better = max((_average(found[name], questions) for name in (SINGLE, PLURALITY)), key=np.mean)
    return Proof([_sum_up(*one, questions, better) for one in found.items()], questions, splits, share)


class _Result(NamedTuple):
    """What a system gives in one split."""

    scores: Floats  # of the questions judged
    calls: float  # per question
    given: Any = slice(None)  # which are answered
    promise: float | None = None
    judged: Any = None


def _average(results: Sequence[_Result], questions: int) -> Floats:
    """The mean score of each question that was ever judged."""
    table = np.full((len(results), questions), np.nan)
    for row, one in zip(table, results, strict=True):
        row[one.judged] = one.scores
    means: Floats = np.nanmean(table[:, ~np.isnan(table).all(axis=0)], axis=0)
    return means


def _sum_up(name: str, results: Sequence[_Result], questions: int, better: Floats) -> ProofRow:
    """The row of the table, against the means of the better baseline."""
    splits, promise, means = len(results), results[0].promise, _average(results, questions)
    given = [one.scores[one.given] for one in results]
    all_given = np.concatenate(given)
    answered = float(np.mean([len(some) / len(one.scores) for some, one in zip(given, results, strict=True)]))
    right = float(all_given.mean()) if len(all_given) else None
    whole = ProofRow(name, right, answered, float(np.mean([one.calls for one in results])))
    if promise is None:
        return replace(whole, gain=(float(means.mean() - better.mean()), difference_interval(means, better)))
    errors = [float(1 - some.mean()) for some in given if len(some)]
    refused = splits - len(errors)
    kept = refused + sum(error <= promise for error in errors)
    return replace(whole, promise=promise, kept=(kept / splits, wilson(kept, splits)), refused=refused / splits)


def _try(train: Votes, test: Votes, keys: tuple[Sequence[Any], Sequence[Any]] | None) -> Iterator[tuple[str, _Result]]:
    """What each system gives in one split."""
    whole, best = float(len(train.columns)), int(train.alone.mean(axis=0).argmax())
    plurality = 1 + 1e-6 * accuracies(train)  # ties go to the strongest
    yield SINGLE, _Result(test.alone[:, best], 1.0)
    yield PLURALITY, _Result(test.score(plurality), whole)
    chosen = pick(list(list_committees(train, len(train.scores))))
    weights: Mapping[str, float] = chosen.weights or dict.fromkeys(chosen.agents, 1.0)
    of_chosen = test.of_agents(test.agents, chosen.samples)
    yield "committee", _Result(of_chosen.score([weights.get(n, 0.0) for n in test.agents]), chosen.calls)
    if keys is not None:
        yield ROUTE, _route(train, test, plurality, keys)
    committees = Committees(train, plurality)
    looks, seen = committees.look(train, held_out=True), committees.look(test)
    stops, questions = list(list_stops(looks)), np.arange(len(test.scores))
    for loss in LOSSES:
        stop = find_stop(stops, len(train.scores), max_loss=loss)
        stage = seen.stop(2.0 if stop is None else stop.threshold)
        yield f"cascade, loss <= {loss:.0%}", _Result(seen.scores[stage, questions], float(seen.calls[stage].mean()))
    # The last of the committees is the vote of all.
    confidences, held_out = seen.confidences[-1], looks.confidences[-1]
    for promise in PROMISES:
        threshold = find_threshold(list_cuts(held_out, looks.scores[-1]), promise)
        given = confidences >= (2.0 if threshold is None else threshold - 1e-9)
        yield f"calibrated at {promise:.0%}", _Result(seen.scores[-1], whole, given, promise)


def _route(train: Votes, test: Votes, plurality: Floats, keys: tuple[Sequence[Any], Sequence[Any]]) -> _Result:
    """What comes of routes among all models and the vote; of the vote, where none win."""
    learned = np.column_stack([train.score(plurality), train.alone])
    order = np.argsort(-learned.mean(axis=0).round(9), kind="stable")
    table, costs = learned[:, order], np.array([len(test.columns), *([1] * len(test.agents))])[order]
    options = np.column_stack([test.score(plurality), test.alone])[:, order]
    chosen = np.full(len(options), int(order.argmin()))  # without a win, all go to the vote
    if is_win(route_held_out(table, keys[0])[0], table[:, 0]):
        chosen = estimate(keys[0], table, keys[1]).argmax(axis=1)
    return _Result(options[np.arange(len(options)), chosen], float(costs[chosen].mean()))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _with_interval(value: tuple[float, Interval] | None, form: str) -> list[str]:
    if value is None:
        return ["-", ""]
    share, low, high = (f"{100 * number:{form}}" for number in (value[0], *value[1]))
    return [share, f"{low} to {high}"]
