"""Verifiers weighed by how often they put a right proposal above a wrong one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dspy
import numpy as np
import numpy.typing as npt

from moa_dspy.concurrency import drive
from moa_dspy.meter import metered
from moa_dspy.recording import Recording
from moa_dspy.rendering import group_identical
from moa_dspy.strategies import Case
from moa_dspy.strategies.selection import Function, score_proposals
from moa_dspy.usage import Usage

from .examples import keeping
from .from_answers import Asked
from .votes import Floats, draw_folds, log_odds, read_cases, shrink, sum_other_folds

__all__ = ["Verified", "VerifierWeights"]


@dataclass(frozen=True)
class Verified:
    """What verifiers say of the different proposals to each question.

    Attributes:
        agents: The verifiers' names.
        right: Of each question, what the metric gives each proposal.
        sizes: How many agents made it.
        scores: Of shape (proposals, verifiers); NaN where a verifier says nothing.
    """

    agents: Sequence[str]
    right: Sequence[Floats]
    sizes: Sequence[Floats]
    scores: Sequence[Floats]

    @classmethod
    def of(cls, asked: Asked, recording: Recording) -> tuple[Verified, Usage]:
        """What they say of recorded proposals, and what it took to ask them."""
        strategy: Any = asked.moa.strategy
        verifiers, scored = strategy.verifiers, asked.scored

        def read(example: dspy.Example, row: Any, case: Case) -> tuple[Floats, Floats, Floats]:
            groups = group_identical(case.proposals)
            given = [drive(score_proposals([verifier], case, [1.0]))[0] for verifier in verifiers]
            scores = [[said.get(group[0].id, np.nan) for said in given] for group in groups]
            right = [scored.number(example, group[0].outputs) for group in groups]
            if not groups:  # nobody answered: one answer, which is wrong
                return np.zeros(1), np.ones(1), np.full((1, len(verifiers)), np.nan)
            return np.array(right), np.array([float(len(group)) for group in groups]), np.array(scores)

        with metered("verifiers") as meter, keeping(recording):
            found = read_cases(asked.moa, recording, [*asked.train, *asked.val], read, asked.threads)
        names = [_name(verifier, place) for place, verifier in enumerate(verifiers, start=1)]
        return cls(names, *zip(*found, strict=True)), Usage.of(meter.calls())

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
        """What the proposal scores that weighted verifiers put first; of several, that of most agents.

        Args:
            weights: Of the verifiers, or of shape (questions, verifiers).
        """
        chosen = []
        given = np.broadcast_to(np.asarray(weights, dtype=float), (len(self.scores), len(self.agents)))
        for right, sizes, scores, each in zip(self.right, self.sizes, self.scores, given, strict=True):
            weighs = np.where(np.isnan(scores), 0.0, each)
            whole = weighs.sum(axis=1)
            mean = np.where(whole > 0, (weighs * np.nan_to_num(scores)).sum(axis=1) / np.maximum(whole, 1e-12), -np.inf)
            chosen.append(right[np.where(mean >= mean.max() - 1e-9, sizes, 0).argmax()])
        return np.array(chosen)


class VerifierWeights:
    """Weights of verifiers: `log_odds` of how often each orders a right and a wrong proposal so, by their spread.

    What a verifier gives is divided by how far its scores differ, so that one that gives from 0 to 100 does not
    outweigh one that says yes or no.

    Attributes:
        accuracy: Of each verifier, drawn to the mean of all; half is chance.
        right: How many of the questions it orders rightly; fractions where it orders some pairs so.
        votes: The questions with a right and a wrong proposal that it has scored.
    """

    alternatives = 1.0

    def __init__(self, verified: Verified) -> None:
        right, compared = verified.compare()
        self.right, self.votes = right.sum(axis=0), compared.sum(axis=0)
        self.accuracy = shrink(self.right, self.votes)
        said = np.ma.masked_invalid(np.concatenate(verified.scores))
        spread = said.std(axis=0).filled(0.0)
        self._scale = 1 / np.where(spread > 0, spread, 1.0)
        self._of = verified
        self._unseen = [
            shrink(sum_other_folds(right, fold), sum_other_folds(compared, fold)) for fold in draw_folds(len(right))
        ]

    def of(self) -> Floats:
        """The weights."""
        return self._weigh(self.accuracy[None])[0]

    def score_held_out(self) -> Floats:
        """What is chosen scores on each question with weights that follow from other questions."""
        return np.mean([self._of.score(self._weigh(unseen)) for unseen in self._unseen], axis=0)

    def _weigh(self, accuracy: Floats) -> Floats:
        weights = log_odds(accuracy, self.alternatives)
        # Where none is better than chance, all count the same.
        return np.where(weights.any(axis=1, keepdims=True), weights, 1.0) * self._scale


def _name(verifier: Any, place: int) -> str:
    """What it is called in a report: a function's name, an agent's, else its place."""
    found = (
        getattr(verifier.verify, "__name__", "") if isinstance(verifier, Function) else getattr(verifier, "name", "")
    )
    return found if isinstance(found, str) and found.isidentifier() else f"verifier_{place}"
