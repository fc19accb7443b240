"""Weights of votes and of verifiers, learned from who was right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dspy
import numpy as np
import numpy.typing as npt

from moa_dspy.concurrency import drive
from moa_dspy.evaluation import Interval, Metric, difference_interval
from moa_dspy.meter import metered
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording
from moa_dspy.rendering import group_identical
from moa_dspy.strategies import Case, Selection, Voting
from moa_dspy.strategies.selection import Function, score_proposals
from moa_dspy.usage import Usage

from .examples import keeping
from .from_answers import Asked, FromAnswers
from .reports import Report
from .votes import Floats, Votes, read_cases

__all__ = ["OPEN", "AgentWeight", "FitVoteWeights", "Weights", "WeightsReport", "accuracies", "log_odds"]

OPEN = 9.0  # wrong answers to an open question: "some"
PRIOR = 10.0  # votes that the panel's mean accuracy counts for
FOLDS, DRAWS = 5, 4  # fifths that are held out in turns, drawn anew so often


@dataclass(frozen=True)
class AgentWeight:
    """The weight of an agent, or of a selection's verifier, and what it rests on."""

    agent: str
    weight: float  # what its vote counts; 0 for one that is right too seldom: no vote counts against an answer
    accuracy: float  # how often it is right when it votes, drawn to the mean of all
    right: float  # its right votes; a verifier's, that put a right proposal before a wrong one
    votes: int  # it abstained or failed on the other questions


@dataclass(frozen=True)
class WeightsReport(Report):
    """What came of fitting."""

    agents: list[AgentWeight]
    alternatives: float  # among how many wrong answers errors are taken to spread; see `log_odds`
    before: float  # the score with the weights that there were
    after: float  # with the fitted weights, on the valset, or on examples held out (fifths, four times)
    gain: Interval  # 95%, of the difference, by the paired bootstrap
    kept: bool  # whether the compiled mixture has these weights; else it has those of the student
    reason: str
    usage: Usage  # what the proposals took, those recorded earlier included


class FitVoteWeights(FromAnswers[MoA]):
    """Learns what each agent's vote counts, for a mixture that votes; or each verifier's score, for a selection.

    Weights are `ln(k p / (1 - p))` (see `log_odds`), p being how often an agent's votes are right. They stand in the
    compiled copy's `Voting.weights`, are saved with it, and are kept only if the vote is no worse with them on
    examples that they were not fitted to: the valset, or fifths of the trainset that are held out in turns. A
    verifier, asked about each recorded proposal, is right where it puts a right proposal before a wrong one; its
    weight, divided by how far its scores spread, stands in `Selection.verifier_weights`.

    Args:
        metric: A metric's name or a function, giving 0 (wrong) to 1 (right).
        alternatives: k, among how many wrong answers errors spread. None: 1 or 9, whichever votes better on examples
            held out.
        concurrency: Examples under way at once.

    Examples:
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> names = ["alice", "bob", "carol"]
        >>> moa = MoA("question -> answer", [f"simulated/{name}" for name in names], strategy="voting")
        >>> optimizer = FitVoteWeights("exact")
        >>> weighted = optimizer.compile(moa, trainset=bundled_questions())
        >>> [(row.agent, row.right, row.votes) for row in optimizer.report.agents]
        [('alice', 85.0, 120), ('bob', 81.0, 120), ('carol', 84.0, 120)]
    """

    def __init__(
        self, metric: str | Metric = "exact", *, alternatives: float | None = None, concurrency: int = 8
    ) -> None:
        super().__init__(metric, concurrency)
        if alternatives is not None and not 1 <= alternatives < float("inf"):
            raise ValueError(f"alternatives={alternatives}: there is at least one wrong answer. Give a number from 1.")
        self.alternatives = alternatives
        self.report: WeightsReport | None = None

    def check(self, moa: MoA) -> None:
        """Refuse a mixture that weighs nothing."""
        strategy = moa.strategy
        if not (isinstance(strategy, Voting) or (isinstance(strategy, Selection) and strategy.verifiers)):
            raise ValueError(
                f"This mixture's strategy is {strategy.name}, which counts no votes and has no verifiers: weights "
                "would have no effect. Build it with strategy=Voting(), or Selection(verifiers=[...])."
            )

    def learn(self, asked: Asked) -> MoA:
        """Fit the weights, of a copy."""
        recording, compiled = asked.ask(), asked.student.deepcopy()
        strategy: Any = compiled.strategy
        if isinstance(strategy, Selection):
            verified, spent = Verified.of(asked, recording)
            train, val = verified.rows(slice(len(asked.train))), verified.rows(slice(len(asked.train), None))
            before, usage = strategy.verifier_weights, recording.usage + spent
            report = self._report(Weights(train, 1.0), train, val, before, usage)
            if report.kept:
                strategy.verifier_weights = [row.weight for row in report.agents]
            return compiled
        votes, unseen = asked.count(recording)
        before = [strategy.weights.get(name, 1.0) for name in votes.agents]
        report = self._report(Weights(votes, self.alternatives), votes, unseen, before, recording.usage)
        if report.kept:
            strategy.weights = {row.agent: row.weight for row in report.agents}
        return compiled

    def _report(self, fitted: Weights, train: Any, val: Any, before: list[float], usage: Usage) -> WeightsReport:
        has_valset = len(val.scores) > 0
        old = (val if has_valset else train).score(before)
        new = val.score(fitted.of()) if has_valset else fitted.score_held_out()
        difference, gain = new.mean() - old.mean(), difference_interval(new, old)
        kept = bool(difference >= -1e-9)
        where = f"On the {len(new)} examples of the valset" if has_valset else "On examples held out"
        reason = (
            f"Fitted on {len(train.scores)} examples. {where} the answer scores {new.mean():.3f} with them and "
            f"{old.mean():.3f} with the weights it had ({difference:+.3f}, 95% {gain.low:+.3f} to {gain.high:+.3f}): "
            f"{'they are kept' if kept else 'the weights stay as they were'}."
        )
        columns = (column.tolist() for column in (fitted.of(), fitted.accuracy, fitted.right, fitted.votes))
        found = zip(train.agents, *columns, strict=True)
        rows = [AgentWeight(name, w, p, right, round(votes)) for name, w, p, right, votes in found]
        scores = float(old.mean()), float(new.mean())
        self.report = WeightsReport(rows, fitted.alternatives, *scores, gain, kept, reason, usage)
        return self.report


class Weights:
    """Weights from who was right: `log_odds` of accuracies that are drawn to the mean of all.

    `alternatives` is among how many wrong answers errors spread. None: two answers (1) or many (9), whichever weights
    score better on questions held out. Of each voter there are `votes`, `right` ones and its `accuracy`.
    """

    def __init__(self, voters: Votes | Verified, alternatives: float | None = None) -> None:
        right, votes = voters.compare()
        self.right, self.votes = right.sum(axis=0), votes.sum(axis=0)
        self.accuracy = _shrink(self.right, self.votes)
        self._voters = voters
        # Of each question, accuracies on the questions of other folds.
        number = len(right)
        folds = [np.random.default_rng(n).permutation(number) % min(FOLDS, number) for n in range(DRAWS)]
        self._unseen = [_shrink(_sum_others(right, fold), _sum_others(votes, fold)) for fold in folds]
        offered = [1.0, OPEN] if alternatives is None else [alternatives]
        self.alternatives = max(offered, key=lambda one: (self._score(one).mean().round(9), one))

    def of(self, size: int | None = None) -> Floats:
        """The weights, 0 for all but the `size` most accurate ones."""
        return self._weigh(self.accuracy[None], self.alternatives, size)[0]

    def score_held_out(self, size: int | None = None) -> Floats:
        """What is answered scores on each question with weights that follow from other questions."""
        return self._score(self.alternatives, size)

    def _score(self, alternatives: float, size: int | None = None) -> Floats:
        scores = [self._voters.score(self._weigh(unseen, alternatives, size)) for unseen in self._unseen]
        return np.mean(scores, axis=0)

    def _weigh(self, accuracy: Floats, alternatives: float, size: int | None) -> Floats:
        rank = np.argsort(np.argsort(-accuracy, axis=1, kind="stable"), axis=1)
        chosen = rank < (size or accuracy.shape[1])
        weights = np.where(chosen, log_odds(accuracy, alternatives), 0.0)
        # Who stands alone is the whole vote, whatever it weighs; so are those of whom none weighs anything.
        nothing = ~weights.any(axis=1, keepdims=True)
        scale: Floats | float = self._voters.scale if isinstance(self._voters, Verified) else 1.0
        return np.where(nothing | (size == 1), chosen.astype(float), weights) * scale


def log_odds(accuracy: npt.ArrayLike, alternatives: float) -> Floats:
    """The weights of voters of these accuracies: `ln(alternatives * p / (1 - p))`, not below 0.

    With independent voters whose errors spread evenly over the wrong answers, the vote with these weights finds the
    right answer most often. Two answers, one of them wrong: Nitzan and Paroush, "Optimal Decision Rules in Uncertain
    Dichotomous Choice Situations" (International Economic Review 23, 1982). More: the term `ln(alternatives)` that
    Zhu et al., "Multi-class AdaBoost" (Statistics and Its Interface 2, 2009) add. Without it whoever is right less
    than half of the time would count for nothing, though to open questions it is still right far more often than
    chance. What remains below 0 is clipped: the winner is an actual proposal.
    """
    p = np.asarray(accuracy, dtype=float)
    return np.maximum(np.log(alternatives * p / (1 - p)), 0.0)


@dataclass(frozen=True)
class Verified:
    """What verifiers say of the different proposals to each question."""

    agents: Sequence[str]  # the verifiers' names
    right: Sequence[Floats]  # of each question, what the metric gives each proposal
    sizes: Sequence[Floats]  # how many agents made it
    scores: Sequence[Floats]  # of shape (proposals, verifiers); NaN where a verifier says nothing

    @classmethod
    def of(cls, asked: Asked, recording: Recording) -> tuple[Verified, Usage]:
        """What they say of recorded proposals, and what it took to ask them."""
        strategy: Any = asked.moa.strategy
        verifiers = strategy.verifiers

        def read(example: dspy.Example, row: Any, case: Case) -> tuple[Floats, Floats, Floats]:
            groups = group_identical(case.proposals)
            if not groups:  # nobody answered: one answer, which is wrong
                return np.zeros(1), np.ones(1), np.full((1, len(verifiers)), np.nan)
            given = [drive(score_proposals([verifier], case, [1.0]))[0] for verifier in verifiers]
            scores = [[said.get(group[0].id, np.nan) for said in given] for group in groups]
            right = [asked.scored.number(example, group[0].outputs) for group in groups]
            return np.array(right), np.array([float(len(group)) for group in groups]), np.array(scores)

        with metered("verifiers") as meter, keeping(recording):
            found = read_cases(asked.moa, recording, [*asked.train, *asked.val], read, asked.threads)
        names = []
        for place, one in enumerate(verifiers, start=1):
            name = getattr(one.verify, "__name__", "") if isinstance(one, Function) else getattr(one, "name", "")
            names.append(name if isinstance(name, str) and name.isidentifier() else f"verifier_{place}")
        return cls(names, *zip(*found, strict=True)), Usage.of(meter.calls())

    @property
    def scale(self) -> Floats:
        """One over the spread of each verifier's scores, so that 0 to 100 does not outweigh yes and no."""
        spread = np.ma.masked_invalid(np.concatenate(self.scores)).std(axis=0).filled(0.0)
        return 1 / np.where(spread > 0, spread, 1.0)

    def rows(self, chosen: slice) -> Verified:
        """These questions."""
        return Verified(self.agents, self.right[chosen], self.sizes[chosen], self.scores[chosen])

    def compare(self) -> tuple[Floats, Floats]:
        """Of each question and verifier, the share of pairs of a right and a wrong proposal that it orders so.

        Ties count half. And 1 if there is such a pair that it has scored, else 0.
        """
        won, asked = [], []
        for right, scores in zip(self.right, self.scores, strict=True):
            better = right[:, None, None] > right[None, :, None]
            apart = np.where(better, scores[:, None] - scores[None, :], np.nan)
            pairs = (~np.isnan(apart)).sum(axis=(0, 1))
            wins = (apart > 0).sum(axis=(0, 1)) + (apart == 0).sum(axis=(0, 1)) / 2
            won.append(wins / np.maximum(pairs, 1))
            asked.append(pairs > 0)
        return np.array(won), np.array(asked, dtype=float)

    def score(self, weights: npt.ArrayLike) -> Floats:
        """What the proposal scores that weighted verifiers put first; of several, that of most agents."""
        chosen = []
        given = np.broadcast_to(np.asarray(weights, dtype=float), (len(self.scores), len(self.agents)))
        for right, sizes, scores, each in zip(self.right, self.sizes, self.scores, given, strict=True):
            weighs = np.where(np.isnan(scores), 0.0, each)
            whole = weighs.sum(axis=1)
            mean = np.where(whole > 0, (weighs * np.nan_to_num(scores)).sum(axis=1) / np.maximum(whole, 1e-12), -np.inf)
            chosen.append(right[np.where(mean >= mean.max() - 1e-9, sizes, 0).argmax()])
        return np.array(chosen)


def accuracies(voters: Votes | Verified) -> Floats:
    """How often each is right, drawn to the mean of all."""
    right, votes = voters.compare()
    return _shrink(right.sum(axis=0), votes.sum(axis=0))


def _shrink(right: Floats, votes: Floats) -> Floats:
    """Accuracies along the last axis, drawn to the mean of all, the less the more an agent has voted.

    As if each had voted `PRIOR` times more, and been right as often as all together; these are taken to have been
    right once and wrong once more (Laplace), so that no accuracy is 0 or 1.
    """
    mean = (right.sum(axis=-1, keepdims=True) + 1) / (votes.sum(axis=-1, keepdims=True) + 2)
    return (right + PRIOR * mean) / (votes + PRIOR)


def _sum_others(counts: Floats, fold: npt.NDArray[np.int64]) -> Floats:
    """Of each question, the counts of all questions of other folds."""
    sums = np.zeros((fold.max() + 1, counts.shape[1]))
    np.add.at(sums, fold, counts)
    return counts.sum(axis=0) - sums[fold]
