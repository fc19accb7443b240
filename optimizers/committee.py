"""Which proposers, which strategy and how many samples are worth their calls; or one model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import dspy
import numpy as np
import numpy.typing as npt
from dspy.teleprompt import Teleprompter

from moa_dspy.evaluation import Interval, Metric, MetricError, difference_interval
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording, replay
from moa_dspy.recording.rows import agent_of
from moa_dspy.strategies import Strategy, as_strategy
from moa_dspy.usage import Usage
from moa_dspy.values import to_jsonable

from .mixtures import restricted
from .recipes import Budget
from .scoring import Scored
from .students import CompileInterrupted, ask_examples, check_mixture, checked_sets, find_rows
from .votes import Floats, Votes, Weights, unweighted_voting

__all__ = ["Candidate", "CommitteeReport", "SelectCommittee", "committees", "pick"]

Prices = Mapping[str, float | None]


@dataclass(frozen=True)
class Candidate:
    """Proposers, how often each is asked, and what makes one answer of their proposals.

    Attributes:
        agents: The proposers.
        samples: Proposals of each.
        weights: Agent -> what its vote counts, where votes are weighted.
        calls: LM calls per question.
        cost_usd: USD per question; None if a price is not known.
        scores: Per question of the valset, or of the trainset: fifths of it are held out in turns.
        strategy: Its name; `voting` of one proposal is that model alone.
    """

    agents: Sequence[str]
    samples: int
    weights: Mapping[str, float]
    calls: float
    cost_usd: float | None
    scores: Floats = field(repr=False, compare=False)
    strategy: str = "voting"

    @property
    def score(self) -> float:
        """The mean score."""
        return float(self.scores.mean())

    @property
    def is_single(self) -> bool:
        """Whether this is one model, asked once."""
        return len(self.agents) == 1 and self.samples == 1

    def __str__(self) -> str:
        if self.is_single:
            return f"{self.agents[0]} alone"
        names = self.agents[0] if len(self.agents) == 1 else f"{', '.join(self.agents[:-1])} and {self.agents[-1]}"
        times = "" if self.samples == 1 else f"{', each' if len(self.agents) > 1 else ''} {self.samples} times"
        return f"{self.strategy} of {names}{times}"


@dataclass(frozen=True)
class CommitteeReport:
    """What came of choosing.

    Attributes:
        candidates: All that were compared, in the order of their calls.
        chosen: The one that the compiled mixture is.
        gain: Its score minus that of the best single model; None if that was no candidate.
        gain_interval: Its 95% interval, by the paired bootstrap.
        reason: In words.
        usage: What that took, proposals recorded earlier included.
    """

    candidates: Sequence[Candidate]
    chosen: Candidate
    gain: float | None
    gain_interval: Interval | None
    reason: str
    usage: Usage

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        candidates = [{**vars(one), "scores": None, "score": one.score} for one in self.candidates]
        place = list(self.candidates).index(self.chosen)
        data: dict[str, Any] = to_jsonable({**vars(self), "candidates": candidates, "chosen": candidates[place]})
        return data


class SelectCommittee(Teleprompter):
    """Chooses which of a mixture's proposers to ask, how often, and what makes one answer of it, under a budget.

    Each proposer is asked once per example and sample; committees that vote are then compared in code. Of each size,
    those with the highest accuracies are taken, their votes weighted as `FitVoteWeights` does. Scores are of examples
    held out. One model alone, asked once, is always among the candidates: the answer may be not to mix.

    Args:
        metric: A metric's name or a function, giving 0 (wrong) to 1 (right).
        strategies: What may make the answer. Others than `"voting"` ask the aggregator, on recorded proposals: one
            verdict per example for the best committee of several and for the largest one. The student's own strategy
            is taken as it is, with its settings and prompts.
        max_calls: LM calls per question that may be spent, those of the aggregator included.
        max_usd: USD per question, by what the examples cost.
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
        concurrency: int = 8,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        require_positive(concurrency=concurrency, max_calls=1 if max_calls is None else max_calls)
        if max_usd is not None and not max_usd > 0:
            raise ValueError(f"max_usd={max_usd} pays for no call. Give USD per question, for example 0.002.")
        if isinstance(strategies, str) or not strategies:
            raise ValueError(f"strategies={strategies!r} names none. Give a list, for example ['voting', 'synthesis'].")
        bound = [as_strategy(strategy) for strategy in strategies]
        self.metric = metric
        self.may_vote = any(strategy.name == "voting" for strategy in bound)
        self.asking = [strategy for strategy in bound if strategy.name != "voting"]
        self.max_calls = max_calls
        self.max_usd = max_usd
        self.concurrency = concurrency
        self.seed = seed
        self.on_progress = on_progress
        self.report: CommitteeReport | None = None

    def budget(self, student: MoA, trainset: int, valset: int = 0) -> Budget:
        """What a compile on so many examples will take at most."""
        panel, examples, judged = student.panels[0], trainset + valset, valset or trainset
        proposals, verdicts = len(panel.names) * panel.samples, 2 * sum(map(_rotations, self.asking))
        formula = f"{examples} examples x {proposals} proposals"
        formula += f" + {judged} examples x {verdicts} verdicts" if verdicts else ""
        return Budget(examples * proposals + judged * verdicts, 0, formula)

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        recorded: Recording | None = None,
    ) -> MoA:
        """Choose.

        Args:
            student: The mixture to choose from; it stays as it is.
            trainset: Examples with gold outputs.
            valset: Examples to score committees on that were chosen on the trainset.
            recorded: An earlier recording, whole or in part, whose proposals are not asked for again.

        Returns:
            The chosen mixture, prompts and demos as in the student. One model alone is a mixture of one proposer
            that votes: one call.

        Raises:
            ValueError: If the examples, the scores or the strategies do not fit.
            TypeError: If the student is no mixture.
            CompileInterrupted: If no model can be asked for that money, prices are not known, or
                (`ProposersUnreachable`) a proposer does not answer; as on `RecordingInterrupted` at Ctrl-C and on
                `MetricError`, what was recorded is on it, as `recording`.
        """
        moa = check_mixture(student, "SelectCommittee", layers=False)
        train, val = checked_sets(moa, trainset, valset, self.metric)
        scored = Scored(self.metric, moa.signature)
        self._check(moa)
        scored.try_on_gold(train[0])
        recording = ask_examples(
            moa, [*train, *val], recorded=recorded, concurrency=self.concurrency, on_progress=self.on_progress
        )
        votes = Votes.of(moa, recording, [*train, *val], scored, self.concurrency)
        prices = self._prices(votes, recording)
        most = float("inf") if self.max_calls is None else self.max_calls
        made = list(committees(votes, len(train), prices, self.max_usd))
        made = [one for one in made if moa.limits.min_proposals <= one.calls <= most]
        candidates, usage = [one for one in made if self.may_vote or one.calls == 1], recording.usage
        for strategy in self.asking:
            several = [one for one in made if 1 < one.calls <= most - _rotations(strategy)]
            for one in [max(several, key=lambda one: one.score), several[-1]] if several else []:
                if all((found.agents, found.strategy) != (one.agents, strategy.name) for found in candidates):
                    judged, spent = self._judge(moa, strategy, one, recording, val or train, scored)
                    usage += spent
                    if self.max_usd is None or (judged.cost_usd is not None and judged.cost_usd <= self.max_usd):
                        candidates.append(judged)
        self.report = self._choose(candidates, prices, recording, usage, "of the valset" if val else "held out")
        return self._mixture(moa, self.report.chosen)

    def _check(self, moa: MoA) -> None:
        least = moa.limits.min_proposals
        if self.max_calls is not None and self.max_calls < least:
            raise ValueError(
                f"max_calls={self.max_calls} is too little: the mixture's Limits(min_proposals={least}) want {least} "
                "proposals at least. Raise the one or lower the other."
            )
        for strategy in self.asking:
            if strategy.needs_aggregator and moa.aggregator.lm is None and dspy.settings.lm is None:
                raise ValueError(f"The strategy {strategy.name!r} needs an aggregator, and this mixture has none.")

    def _prices(self, votes: Votes, recording: Recording) -> Prices:
        """Agent -> USD per proposal, on average; None where a price is not known or DSPy's cache answered."""
        prices: dict[str, float | None] = {}
        for name in votes.agents:
            costs: list[float | None] = []
            for row in recording:
                usage = Usage.of(call for call in row.calls if call.agent == name)
                if usage.calls and not usage.cache_hits:
                    samples = sum(agent_of(id) == name for id in row.asked)
                    costs.append(None if usage.unpriced_calls else (usage.cost_usd or 0.0) / samples)
            known = [cost for cost in costs if cost is not None]
            prices[name] = fmean(known) if known and len(known) == len(costs) else None
        unknown = [name for name, price in prices.items() if price is None]
        if self.max_usd is not None and unknown:
            raise CompileInterrupted(
                f"What {', '.join(unknown)} cost is not known (no price, or DSPy's cache answered), so no budget in "
                "USD can be kept. Give max_calls instead.",
                recording=recording,
            )
        return prices

    def _judge(
        self,
        moa: MoA,
        strategy: Strategy,
        committee: Candidate,
        recording: Recording,
        examples: Sequence[dspy.Example],
        scored: Scored,
    ) -> tuple[Candidate, Usage]:
        """The strategy on a committee's recorded proposals: its aggregator is really asked."""
        judged = replace(committee, strategy=strategy.name, weights={})
        replayed = replay(self._mixture(moa, judged), recording, ask_aggregator=True)
        asked = ask_examples(replayed, examples, concurrency=self.concurrency, strategies=None)
        row_of = find_rows(moa.signature, asked)
        answers = [row.outputs if (row := row_of(example)) else None for example in examples]
        try:
            scores = np.array([scored.number(*pair) for pair in zip(examples, answers, strict=True)])
        except MetricError as error:
            error.recording = recording
            raise
        usage = asked.usage
        is_priced = committee.cost_usd is not None and usage.cost_usd is not None and not usage.unpriced_calls
        cost = (committee.cost_usd or 0.0) + (usage.cost_usd or 0.0) / len(asked) if is_priced else None
        return replace(judged, scores=scores, calls=committee.calls + usage.calls / len(asked), cost_usd=cost), usage

    def _mixture(self, moa: MoA, chosen: Candidate) -> MoA:
        if chosen.strategy == moa.strategy.name != "voting":  # with its compiled prompts
            return restricted(moa, chosen.agents, samples=chosen.samples)
        if chosen.strategy == "voting":
            voting = unweighted_voting(moa)
            voting.weights = dict(chosen.weights)
            return restricted(moa, chosen.agents, samples=chosen.samples, strategy=voting)
        strategy = next(one for one in self.asking if one.name == chosen.strategy)
        lm = moa.aggregator.lm
        return restricted(moa, chosen.agents, samples=chosen.samples, strategy=strategy, aggregator=lm)

    def _choose(
        self, candidates: list[Candidate], prices: Prices, recording: Recording, usage: Usage, where: str
    ) -> CommitteeReport:
        if not candidates:
            known = [price for price in prices.values() if price is not None]
            cheapest = f" The cheapest proposal costs {min(known):.2g} USD." if known else ""
            raise CompileInterrupted(
                f"Nothing that was asked for fits into the budget.{cheapest} Raise it.", recording=recording
            )
        candidates.sort(key=lambda one: one.calls)
        costs = [one.calls if self.max_usd is None else one.cost_usd or 0.0 for one in candidates]
        chosen = candidates[pick([one.scores for one in candidates], costs)]
        single = next((one for one in candidates if one.is_single and one.strategy == "voting"), None)
        gain = None if single is None else chosen.score - single.score
        interval = None if single is None else difference_interval(chosen.scores, single.scores, seed=self.seed)
        where = f"on {len(chosen.scores)} examples {where}"
        said = f"{chosen.calls:.3g} calls per question: {chosen.score:.3f} {where}"
        if chosen is single:
            others = [one for one in candidates if one is not single]
            best = max(others, key=lambda one: one.score, default=None)
            said = f"Use {chosen}: it scores {chosen.score:.3f} {where}." + (
                f" The best of the others, {best}, scores {best.score:.3f} with {best.calls:.3g} calls." if best else ""
            )
        else:
            said = f"Use the {chosen}, {said}"
            if single is not None and interval is not None:
                said += f", against {single.score:.3f} of {single} ({gain:+.3f}, 95% {interval.low:+.3f} to "
                said += f"{interval.high:+.3f})"
                said += ". The gain may be chance, which more examples would tell" if interval.low <= 0 else ""
            said += "."
        return CommitteeReport(candidates, chosen, gain, interval, said, usage)


def committees(
    votes: Votes, trained: int, prices: Prices | None = None, max_usd: float | None = None
) -> Iterator[Candidate]:
    """The committee that votes of each size and number of samples: the most accurate agents that the money pays for.

    Args:
        votes: Those to the trainset, then those to the valset.
        trained: How many of them are of the trainset.
        prices: Agent -> USD per proposal.
        max_usd: USD per question.
    """
    accuracy = dict(zip(votes.agents, Weights(votes.rows(slice(None, trained))).accuracy, strict=True))
    price_of = prices or dict.fromkeys(votes.agents)
    for samples in range(1, votes.samples + 1):
        names: list[str] = []
        for name in sorted(votes.agents, key=lambda name: -accuracy[name]):
            if max_usd is None or samples * sum(price_of[one] or 0.0 for one in [*names, name]) <= max_usd:
                names.append(name)
        if not names:
            continue
        here = votes.of_agents(names, samples)
        val, fitted = here.rows(slice(trained, None)), Weights(here.rows(slice(None, trained)))
        for size in range(1, len(names) + 1):
            weights = dict(zip(here.agents, fitted.of(size).tolist(), strict=True))
            weights = {name: weight for name, weight in weights.items() if weight > 0}
            if len(weights) < size:  # one more who weighs nothing: the committee before
                continue
            known = [price for name in weights if (price := price_of[name]) is not None]
            yield Candidate(
                agents=tuple(weights),
                samples=samples,
                weights=weights if len(weights) > 1 else {},
                calls=len(weights) * samples,
                cost_usd=samples * sum(known) if len(known) == len(weights) else None,
                scores=val.score(fitted.of(size)) if len(val.scores) else fitted.score_held_out(size),
            )


def pick(scores: Sequence[npt.ArrayLike], costs: Sequence[float]) -> int:
    """The index of the candidate to use, by its scores per question and what it costs, in calls or in money.

    The best score of many is a matter of chance on a few hundred questions, so the choice is between the cheapest
    (one model alone) and the dearest (all of them); the cheaper one if they are equal. Another is taken only if it is
    better than that one by more than one standard error, as in the one-standard-error rule (Breiman et al.,
    "Classification and Regression Trees", 1984, section 3.4.3).

    Example:
        >>> pick([[1, 1, 0, 0], [1, 1, 1, 0]], [1, 3]), pick([[1, 1, 0, 0], [1, 0, 1, 0]], [1, 3])
        (1, 0)
    """
    table = np.asarray(scores, dtype=float)
    order = sorted(range(len(table)), key=lambda index: (costs[index], -table[index].mean()))
    means = table.mean(axis=1).round(9)
    anchor = order[0] if means[order[0]] >= means[order[-1]] else order[-1]
    gained = table - table[anchor]
    evident = gained.mean(axis=1) > gained.std(axis=1) / np.sqrt(table.shape[1]) + 1e-9
    return max((index for index in order if evident[index]), key=lambda index: means[index], default=anchor)


def _rotations(strategy: Strategy) -> int:
    """LM calls of its aggregator per question."""
    return int(getattr(strategy, "rotations", 1))
