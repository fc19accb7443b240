"""Subsets of the agents: which are tried, and which of a size is taken."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .log_odds import fit_log_odds
from .vote_counting import log_likelihood
from .vote_matrix import VoteMatrix

__all__ = ["Afford", "Chosen", "Subsets"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]
Afford = Callable[[Sequence[str], int], bool]

# Agents up to which every subset is tried: 255 of them.
ALL_SUBSETS = 8


@dataclass(frozen=True)
class Chosen:
    """A subset of the agents, without those whose votes would count for nothing.

    Attributes:
        agents: In declared order.
        weights: Agent -> what its vote counts.
        columns: The same for all columns of the matrix, 0 for those that are not asked.
    """

    agents: tuple[str, ...]
    weights: Mapping[str, float]
    columns: Floats


class Subsets:
    """All that may be chosen, and the choice of each size on some of the questions.

    Args:
        matrix: The recorded proposals.
        affordable: Whether these agents may be taken, asked so often each.
    """

    def __init__(self, matrix: VoteMatrix, affordable: Afford) -> None:
        self.matrix = matrix
        self.numbers = np.array([list(matrix.agents[: c + 1]).count(a) for c, a in enumerate(matrix.agents)])
        # The likelihood takes the weights of all questions, which hardly change; those that vote are fitted anew.
        fitted = fit_log_odds(matrix)
        self.accuracy = np.array(list(fitted.accuracy.values()))
        self.scaled = matrix.weights(fitted.weights) * fitted.scale
        self.fits: dict[tuple[int, bytes], Floats] = {}
        self.offered: dict[tuple[int, int], list[Bools]] = {}
        for samples in range(1, matrix.samples + 1):
            for subset in self._tried(samples):
                if affordable(self._names(subset), samples):
                    self.offered.setdefault((samples, int(subset.sum())), []).append(subset)
            self._fit(samples, [s for (m, _), group in self.offered.items() if m == samples for s in group])

    def chosen(self, questions: Indices) -> dict[tuple[int, int], Chosen]:
        """(samples, size) -> the choice on these questions, always for the same sizes in the same order."""
        fitted = fit_log_odds(self.matrix.rows(questions))
        accuracy = np.array(list(fitted.accuracy.values()))
        result = {}
        for (samples, size), group in self.offered.items():
            strongest = max(group, key=lambda subset: float(accuracy[subset].sum()))
            subset = self._better(samples, strongest, group, questions)
            weights = {name: fitted.weights[name] for name in self._names(subset) if fitted.weights[name]}
            # Who stands alone is the whole vote, whatever it weighs; so are those of whom none weighs anything.
            weights = weights if len(weights) > 1 else dict.fromkeys(list(weights) or self._names(subset), 1.0)
            mask = self._columns(subset, samples)
            result[samples, size] = Chosen(tuple(weights), weights, np.where(mask, self.matrix.weights(weights), 0.0))
        return result

    def _better(self, samples: int, strongest: Bools, group: Sequence[Bools], questions: Indices) -> Bools:
        fits = np.array([self.fits[samples, subset.tobytes()] for subset in group])[:, questions]
        best = int(fits.sum(axis=1).argmax())
        gain = fits[best] - self.fits[samples, strongest.tobytes()][questions]
        return group[best] if gain.sum() > gain.std() * np.sqrt(len(gain)) + 1e-9 else strongest

    def _tried(self, samples: int) -> Iterator[Bools]:
        count = len(self.matrix.names)
        if count <= ALL_SUBSETS:
            for bits in itertools.product([True, False], repeat=count):
                if any(bits):
                    yield np.array(bits)
            return
        order = np.argsort(-self.accuracy, kind="stable")
        yield from np.eye(count, dtype=bool)
        for size in range(2, count + 1):
            yield np.isin(np.arange(count), order[:size])
        left = np.ones(count, dtype=bool)
        while left.sum() > 2:
            without = [np.where(np.arange(count) == agent, False, left) for agent in np.flatnonzero(left)]
            left = without[int(self._fit(samples, without).sum(axis=1).argmax())]
            yield left

    def _fit(self, samples: int, subsets: Sequence[Bools]) -> Floats:
        if not subsets:
            return np.zeros((0, len(self.matrix)))
        weights = [np.where(self._columns(subset, samples), self.scaled, 0.0) for subset in subsets]
        fits = log_likelihood(self.matrix, weights)
        self.fits.update({(samples, s.tobytes()): fit for s, fit in zip(subsets, fits, strict=True)})
        return fits

    def _columns(self, subset: Bools, samples: int) -> Bools:
        mask: Bools = (subset @ self.matrix.owners > 0) & (self.numbers <= samples)
        return mask

    def _names(self, subset: Bools) -> tuple[str, ...]:
        return tuple(name for name, is_in in zip(self.matrix.names, subset, strict=True) if is_in)
