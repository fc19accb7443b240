"""Evaluation: each model alone, the vote, the strategies and the oracle, on the same questions and proposals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import dspy

from moa_dspy.account import Account
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.errors import TooFewProposals
from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import Metric, MetricError, as_metric, score
from moa_dspy.evaluation.question import ask_all
from moa_dspy.evaluation.records import Record
from moa_dspy.evaluation.systems import Field
from moa_dspy.moa import MoA
from moa_dspy.strategies import Strategy
from moa_dspy.values import IncompleteProposal, typed_outputs

__all__ = ["EvaluationInterrupted", "evaluate"]


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C during an evaluation.

    Attributes:
        comparison: Of the questions that were finished by then.
    """

    def __init__(self, comparison: Comparison) -> None:
        super().__init__("interrupted")
        self.comparison = comparison


def evaluate(
    moa: MoA,
    dataset: Sequence[dspy.Example],
    metric: str | Metric = "exact",
    *,
    strategies: Sequence[str | Strategy] | None = None,
    others: Mapping[str, dspy.Module] | None = None,
    aggregator_alone: bool = True,
    concurrency: int = 8,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare a mixture's models alone, the vote, its strategies and the oracle on a dataset.

    Every model is asked once per question, and its proposals serve the vote, the oracle and all strategies: that
    costs one panel instead of one per strategy, and makes the comparison paired. What a system is said to take
    is nevertheless what it takes on its own. A vote that stops early would take less than is said: here all
    proposals are in. A failure counts as a wrong answer.

    Args:
        moa: The mixture. Its own strategy is taken as it is, compiled prompts included.
        dataset: Examples with the task's inputs, and the gold outputs that the metric needs.
        metric: `"exact"`, `"contains"`, `"module:function"` or a function; see `as_metric`. What
            a metric itself asks of a model is not counted.
        strategies: What to compare, by name or as objects; None means all that are built in.
        others: Name -> further modules, really called on every question (a tuned mixture, another panel).
        aggregator_alone: Whether the aggregator's model is asked too, where it is none of the proposers.
        concurrency: How many questions are under way at a time; each asks its proposers side by side.
        seed: Of the bootstrap.
        on_progress: Called with the number of finished questions and of all.

    Returns:
        The comparison; its records hold every answer.

    Raises:
        ValueError: If the dataset is empty, a name is unknown, or an API key is missing.
        MetricError: If the metric gives no score; on the first question's gold outputs, before anything is paid
            for, where the example has them. `comparison` on the error holds what was finished.
        TooFewProposals: If nobody answers the first question.
        EvaluationInterrupted: On Ctrl-C, with what was finished.

    Example:
        >>> from moa_dspy import MoA
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> example = dspy.Example(question="What is 17*23?", answer="391").with_inputs("question")
        >>> comparison = evaluate(moa, [example], strategies=["synthesis"])
        >>> [(row.name, row.score) for row in comparison.rows][-3:]
        [('plain vote', 1.0), ('synthesis', 1.0), ('oracle', 1.0)]
    """
    examples = list(dataset)
    if not examples:
        raise ValueError("The dataset is empty: there is no question to compare the systems on.")
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency} asks nothing. Give a whole number from 1.")
    scorer = as_metric(metric, moa.signature)
    _try_on_gold(scorer, examples[0], moa.signature)
    field = Field(moa, strategies, others, aggregator_alone)
    records: list[Record] = []

    def comparison() -> Comparison:
        in_order = sorted(records, key=lambda record: record.number)
        name = metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)
        return Comparison(field.systems, in_order, len(examples), name, seed)

    if on_progress is not None:
        on_progress(0, len(examples))
    numbered = list(enumerate(examples, start=1))
    try:
        # The first question goes alone: what is wrong for all of them shows before the rest is paid for.
        for questions in (numbered[:1], numbered[1:]):
            for record in run_side_by_side(lambda question: ask_all(field, scorer, *question), questions, concurrency):
                records.append(record)
                if on_progress is not None:
                    on_progress(len(records), len(examples))
            _refuse_silence(records[0], field)
    except KeyboardInterrupt as stop:
        raise EvaluationInterrupted(comparison()) from stop
    except MetricError as error:
        error.comparison = comparison()
        raise
    return comparison()


def _try_on_gold(metric: Metric, example: dspy.Example, task: type[dspy.Signature]) -> None:
    try:
        gold = typed_outputs(example, task)
    except IncompleteProposal:
        return  # the metric may know how to compare golds of other types, or need none
    score(metric, example, dspy.Prediction(**gold))


def _refuse_silence(first: Record, field: Field) -> None:
    """Stop if no proposer answered the first question, or if the aggregator's model did not."""
    alone = {"No proposer answered": list(first.proposals.values())}
    if field.judge_name is not None:
        alone["The aggregator's model did not answer"] = [first.answers[field.judge_name]]
    for complaint, answers in alone.items():
        failures = [answer.failure for answer in answers if answer.failure is not None]
        if len(failures) == len(answers):
            causes = "; ".join(f"{failed.agent}: {failed.error}: {failed.message}" for failed in failures)
            account = Account(field.moa.strategy.name, len(field.moa.panels[0].names))
            account.calls, account.failures = list(first.calls), failures
            message = f"{complaint} the first question, so the others were not asked. {causes}"
            raise TooFewProposals(message, account.metadata())
