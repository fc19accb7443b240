"""Which proposers, which strategy and how many samples are worth their calls; or one model alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import Metric
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.strategies import Strategy, Voting, as_strategy

from .budgets import Budget
from .choosing import choose
from .collecting import MAX_OUTAGES, check_recording, collect, keeping
from .committee_report import CommitteeReport
from .feedback import plain_metric
from .selecting import Selecting
from .students import check_student, checked_sets

__all__ = ["SelectCommittee"]


class SelectCommittee(Teleprompter):
    """Chooses which of a mixture's proposers to ask, how often, and what makes one answer of it, under a budget.

    Each proposer is asked once per example and sample; committees that vote are then compared in code, which costs
    nothing. Their votes are weighted (`fit_log_odds`), and no aggregator breaks ties. Scores are less what choosing on
    the same examples flatters them (`optimism`). Of equal scores the one with fewer calls wins, and one model alone,
    asked once, is always among them: the answer may be not to mix. To leave out some proposers saves calls; on a few
    hundred examples it seldom adds quality, so without a budget it is done on evidence only (`pick`).

    Args:
        metric: A metric's name or a function, giving 0 (wrong) to 1 (right).
        strategies: What may make the answer. Others than `"voting"` ask the aggregator: one call per example (or what
            the strategy takes) for the best committee of several and for the largest one. The student's own strategy
            is taken as it is, with its settings and prompts.
        max_calls: LM calls per question that may be spent, those of the aggregator included.
        max_usd: USD per question, by what the examples cost.
        standard_errors: How many standard errors of score fewer calls (or USD, with `max_usd`) are worth: 1 for the
            one-standard-error rule, 0 for the best score. None leaves proposers out on evidence only: see `pick`.
        max_outages: The share of an agent's proposals that may be missing because its LM could not be reached.
        concurrency: Examples under way at once; each asks its proposers side by side.
        seed: Of the bootstrap.
        on_progress: Called with the number of examples that are finished and of all.

    Raises:
        ValueError: If a setting makes no sense.

    Attributes:
        report: Of the last compile; see `CommitteeReport`.

    Example:
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> names = ["alice", "bob", "carol", "dave"]
        >>> moa = MoA("question -> answer", [f"simulated/{name}" for name in names], "simulated/judge")
        >>> optimizer = SelectCommittee("exact", max_calls=3)
        >>> chosen = optimizer.compile(moa, trainset=bundled_questions())
        >>> optimizer.report.chosen.calls, chosen.strategy.name
        (3, 'voting')
    """

    def __init__(
        self,
        metric: str | Metric = "exact",
        *,
        strategies: Sequence[str | Strategy] = ("voting",),
        max_calls: int | None = None,
        max_usd: float | None = None,
        standard_errors: float | None = None,
        max_outages: float = MAX_OUTAGES,
        concurrency: int = 8,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        if max_calls is not None:
            require_positive(max_calls=max_calls)
        if max_usd is not None and not max_usd > 0:
            raise ValueError(f"max_usd={max_usd} pays for no call. Give USD per question, for example 0.002.")
        if standard_errors is not None and not standard_errors >= 0:
            raise ValueError(
                f"standard_errors={standard_errors}: give 0 for the best score, 1 for fewer calls, or None."
            )
        if isinstance(strategies, str) or not strategies:
            raise ValueError(f"strategies={strategies!r} names none. Give a list, for example ['voting', 'synthesis'].")
        check_recording(max_outages, concurrency)
        self.metric = metric
        self.strategies = [as_strategy(strategy) for strategy in strategies]
        self.max_calls = max_calls
        self.max_usd = max_usd
        self.standard_errors = standard_errors
        self.max_outages = max_outages
        self.concurrency = concurrency
        self.seed = seed
        self.on_progress = on_progress
        self.report: CommitteeReport | None = None

    def budget(self, student: MoA, trainset: int, valset: int = 0) -> Budget:
        """What a compile will take at most, to be known before it is spent.

        Args:
            student: The mixture.
            trainset: How many examples it has.
            valset: How many examples it has.
        """
        panel = student.panels[0]
        proposals, judges = len(panel.names) * panel.samples, 2 * len(self._asking)
        examples = trainset + valset
        formula = f"{examples} examples x {proposals} proposals"
        judged = valset or trainset
        formula += f" + {judged} examples x {judges} verdicts" if judges else ""
        return Budget(examples * proposals + judged * judges, 0, formula)

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        recorded: Comparison | None = None,
    ) -> MoA:
        """Choose.

        Args:
            student: The mixture to choose from; it stays as it is.
            trainset: Examples with gold outputs.
            valset: Examples to score committees on that were chosen on the trainset; by default they are scored on
                the trainset, less their `optimism`.
            recorded: An earlier comparison, also a part of one, whose proposals are not asked for again.

        Returns:
            The chosen mixture, prompts and demos as in the student. One model alone is a mixture of one proposer
            that votes: one call.

        Raises:
            ValueError: If the examples, the scores or the strategies do not fit.
            TypeError: If the student is no mixture.
            BudgetTooSmall: If no model can be asked for that money, or prices are not known; it carries what was
                recorded.
            ProposersUnreachable: If a proposer does not answer; what was recorded is on it.
            MetricError: If the metric gives no score; what was recorded is on it.
        """
        moa = check_student(student, "SelectCommittee")
        train, val = checked_sets(moa, trainset, valset, self.metric)
        metric = plain_metric(self.metric, moa.signature)
        selecting = Selecting(
            moa,
            metric,
            self._asking,
            voting=self._voting(moa),
            votes=len(self._asking) < len(self.strategies),
            max_calls=self.max_calls,
            max_usd=self.max_usd,
            concurrency=self.concurrency,
            seed=self.seed,
        )
        selecting.check()
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
        with keeping(comparison):
            options = selecting.options(comparison, len(train))
        chosen, self.report = choose(
            options,
            self.standard_errors,
            in_usd=self.max_usd is not None,
            has_valset=bool(val),
            recorded=comparison.usage,
            seed=self.seed,
        )
        return chosen.mixture

    @property
    def _asking(self) -> list[Strategy]:
        """The strategies that ask the aggregator."""
        return [strategy for strategy in self.strategies if strategy.name != "voting"]

    def _voting(self, moa: MoA) -> Voting:
        """The mixture's own vote, if it votes, else the one that was given."""
        offered = (moa.strategy, *self.strategies)
        return next((strategy for strategy in offered if isinstance(strategy, Voting)), Voting())
