"""Vote weights learned from examples, with or without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import Metric
from moa_dspy.moa import MoA
from moa_dspy.strategies import Voting

from .collecting import MAX_OUTAGES, check_recording, collect, keeping
from .dawid_skene import dawid_skene, wrong_answers
from .feedback import plain_metric
from .log_odds import PRIOR, FittedWeights, check_settings, fit_log_odds
from .students import check_student, checked_sets
from .vote_matrix import VoteMatrix
from .weights_judging import judged_weights
from .weights_report import WeightsReport

__all__ = ["FitVoteWeights"]


class FitVoteWeights(Teleprompter):
    """Learns what each agent's vote counts, for a mixture that votes.

    With a metric, weights are `ln(alternatives * p / (1 - p))` (see `log_odds`), p being how often an agent's votes are
    right, drawn to the panel's mean where it has voted little. Without one they come from how the agents agree
    (`dawid_skene`), which needs no gold outputs, and is led astray where agents share their mistakes.

    Each proposer is asked once per example and sample; the rest is arithmetic. The weights stand in the compiled
    copy's `Voting.weights` and are saved with it. With a metric they are kept only if the vote is no worse with them,
    less what they flatter themselves on the examples that they were fitted to (`optimism`).

    Args:
        metric: A metric's name or a function, giving 0 (wrong) to 1 (right); None for examples without labels.
        alternatives: Among how many wrong answers errors spread. None: with a metric, what fits the votes; without,
            what the type says (1 for a bool), and 9 for open answers.
        prior: How many votes the panel's mean counts for; see `shrunk`.
        max_outages: The share of an agent's proposals that may be missing because its LM could not be reached.
        concurrency: Examples under way at once; each asks its proposers side by side.
        seed: Of the bootstrap.
        on_progress: Called with the number of examples that are finished and of all.

    Raises:
        ValueError: If a setting makes no sense.

    Attributes:
        report: Of the last compile; see `WeightsReport`.

    Example:
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
        self,
        metric: str | Metric | None = "exact",
        *,
        alternatives: float | None = None,
        prior: float = PRIOR,
        max_outages: float = MAX_OUTAGES,
        concurrency: int = 8,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        check_settings(alternatives, prior)
        check_recording(max_outages, concurrency)
        self.metric = metric
        self.alternatives = alternatives
        self.prior = prior
        self.max_outages = max_outages
        self.concurrency = concurrency
        self.seed = seed
        self.on_progress = on_progress
        self.report: WeightsReport | None = None

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        recorded: Comparison | None = None,
    ) -> MoA:
        """Fit the weights.

        Args:
            student: A mixture whose strategy is `Voting`; it stays as it is.
            trainset: Examples, with gold outputs if there is a metric.
            valset: Examples on which the weights are compared with those the student has; by default the trainset.
            recorded: An earlier comparison, also a part of one, whose proposals are not asked for again.

        Returns:
            The compiled copy.

        Raises:
            ValueError: If the student does not vote, or the examples or scores do not fit.
            TypeError: If the student is no mixture.
            ProposersUnreachable: If a proposer does not answer; what was recorded is on it.
            MetricError: If the metric gives no score; what was recorded is on it.
        """
        moa = check_student(student, "FitVoteWeights")
        voting = _voting(moa)
        train, val = checked_sets(moa, trainset, valset, self.metric)
        metric = _unscored if self.metric is None else plain_metric(self.metric, moa.signature)
        comparison = collect(
            moa,
            [*train, *val],
            metric,
            recorded=recorded,
            max_outages=self.max_outages,
            concurrency=self.concurrency,
            on_progress=self.on_progress,
            strategies=(),
            aggregator_alone=False,
        )
        matrix = VoteMatrix.of(comparison.records, moa)
        with keeping(comparison):
            self.report = judged_weights(
                lambda rows: self._fitted(moa, rows),
                {name: voting.weights.get(name, 1.0) for name in matrix.names},
                matrix.rows(slice(None, len(train))),
                matrix.rows(slice(len(train), None)),
                has_scores=self.metric is not None,
                usage=comparison.usage,
                seed=self.seed,
            )
        compiled = moa.deepcopy()
        if self.report.kept:
            _voting(compiled).weights = {row.agent: row.weight for row in self.report.agents}
        return compiled

    def _fitted(self, moa: MoA, matrix: VoteMatrix) -> FittedWeights:
        if self.metric is not None:
            return fit_log_odds(matrix, alternatives=self.alternatives, prior=self.prior)
        return dawid_skene(matrix, alternatives=self.alternatives or wrong_answers(moa), prior=self.prior)


def _voting(moa: MoA) -> Voting:
    if not isinstance(moa.strategy, Voting):
        raise ValueError(
            f"This mixture's strategy is {moa.strategy.name}, which counts no votes, so weights would have no effect. "
            "Build it with strategy=Voting()."
        )
    return moa.strategy


def _unscored(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> float:
    return 0.0
