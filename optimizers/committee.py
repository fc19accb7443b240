"""Which proposers, which strategy and how many samples are worth their calls; or one model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import dspy
import numpy as np

from moa_dspy.evaluation import Interval, Metric, difference_interval
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.models import as_lm
from moa_dspy.recording import Recording, replay
from moa_dspy.recording.budget import count_rotations
from moa_dspy.recording.rows import agent_of
from moa_dspy.strategies import Strategy, as_strategy
from moa_dspy.usage import Usage

from .examples import CompileInterrupted, ask_examples, find_rows, keeping
from .from_answers import Asked, FromAnswers
from .mixtures import restricted
from .reports import Report
from .vote_weights import Weights
from .votes import Floats, Votes, is_win, voting_of

__all__ = ["Candidate", "CommitteeReport", "SelectCommittee", "list_committees", "pick", "price_proposals"]

Prices: TypeAlias = Mapping[str, float | None]

FEW = 50  # examples, on fewer of which chance decides which committee is ahead


@dataclass(frozen=True)
class Candidate(Report):
    """Proposers, how often each is asked, and what makes one answer of their proposals."""

    agents: Sequence[str]
    samples: int  # proposals of each
    weights: Mapping[str, float]  # agent -> what its vote counts, where votes are weighted
    calls: float  # LM calls per question
    cost_usd: float | None  # USD per question; None if a price is not known
    scores: Floats = field(repr=False, compare=False)  # per question that the weights were not fitted to
    strategy: str = "voting"  # that of one proposal is that model alone
    aggregator: str | None = None  # the model that judges, where several were tried
    shown = ("agents", "samples", "weights", "calls", "cost_usd", "strategy", "aggregator", "score")

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
        times = "" if self.samples == 1 else f", each {self.samples} times"
        judge = "" if self.aggregator is None else f", judged by {self.aggregator}"
        return f"{self.strategy} of {', '.join(self.agents)}{times}{judge}"


@dataclass(frozen=True)
class CommitteeReport(Report):
    """What came of choosing."""

    candidates: Sequence[Candidate]  # all that were compared, in the order of their calls
    chosen: Candidate  # the one that the compiled mixture is
    reason: str
    usage: Usage  # what that took, proposals recorded earlier included
    gain: float | None = None  # its score minus that of the best single model, where that was a candidate
    gain_interval: Interval | None = None  # its 95% interval, by the paired bootstrap


class SelectCommittee(FromAnswers[MoA]):
    """Chooses which of a mixture's proposers to ask, how often, and what makes one answer of it, under a budget.

    Each proposer is asked once per example and sample; committees that vote are then compared in code. Of each size,
    those with the highest accuracies are taken, their votes weighted as `FitVoteWeights` does. Scores are of examples
    held out. One model alone, asked once, is always among the candidates: the answer may be not to mix. On fewer than
    50 examples the plain vote of all stays, unless another candidate is proven better.

    Args:
        metric: A metric's name or a function, giving 0 (wrong) to 1 (right).
        strategies: What may make the answer. Others than `"voting"` ask the aggregator, on recorded proposals: one
            verdict per example for the best committee of several. The student's own keeps its settings and prompts.
        aggregators: Models to try as the judge of those strategies, instead of the student's own. With each, proposers
            are added one at a time, while the verdict on the recorded proposals gains by it.
        max_calls: LM calls per question that may be spent, those of the aggregator included.
        max_usd: USD per question, by what the examples cost.
        concurrency: Examples under way at once.

    Examples:
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
        aggregators: Sequence[str | dspy.BaseLM] = (),
        max_calls: int | None = None,
        max_usd: float | None = None,
        concurrency: int = 8,
    ) -> None:
        super().__init__(metric, concurrency)
        require_positive(max_calls=1 if max_calls is None else max_calls)
        if max_usd is not None and not max_usd > 0:
            raise ValueError(f"max_usd={max_usd} pays for no call. Give USD per question, for example 0.002.")
        if isinstance(strategies, str) or not strategies:
            raise ValueError(f"strategies={strategies!r} names none. Give a list, for example ['voting', 'synthesis'].")
        self.strategies = {bound.name: bound for bound in map(as_strategy, strategies)}
        self.aggregators = {lm.model: lm for lm in map(as_lm, aggregators)}
        if self.aggregators and not self._asking:
            raise ValueError("aggregators= judge nothing: voting asks none. Name a strategy, strategies=['synthesis'].")
        self.max_calls = float("inf") if max_calls is None else max_calls
        self.max_usd = max_usd
        self.report: CommitteeReport | None = None

    def check(self, moa: MoA) -> None:
        """Refuse a mixture that cannot be chosen from."""
        least = moa.limits.min_proposals
        if self.max_calls < least:
            raise ValueError(
                f"max_calls={self.max_calls} is too little: the mixture's Limits(min_proposals={least}) want {least} "
                "proposals at least. Raise the one or lower the other."
            )
        for strategy in self._asking:
            is_there = self.aggregators or moa.aggregator.lm is not None or dspy.settings.lm is not None
            if strategy.needs_aggregator and not is_there:
                raise ValueError(f"The strategy {strategy.name!r} needs an aggregator, and this mixture has none.")

    def learn(self, asked: Asked) -> MoA:
        """Choose, prompts and demos as in the student; one model alone is a mixture of one proposer that votes."""
        moa, recording = asked.moa, asked.ask()
        votes = Votes.of(moa, recording, [*asked.train, *asked.val], asked.scored, self.concurrency)
        prices = price_proposals(votes.agents, recording)
        if self.max_usd is not None:
            if unknown := [name for name, price in prices.items() if price is None]:
                raise CompileInterrupted(
                    f"What {', '.join(unknown)} cost is not known (no price, or DSPy's cache answered), so no budget "
                    "in USD can be kept. Give max_calls instead.",
                    recording=recording,
                )
            affordable = [name for name, price in prices.items() if price is not None and price <= self.max_usd]
            votes = votes.of_agents(affordable, votes.samples)
        made = [one for one in list_committees(votes, len(asked.train), prices) if self._fits(one, moa)]
        candidates = [one for one in made if "voting" in self.strategies or one.is_single]
        usage = recording.usage

        def judge(one: Candidate) -> Candidate:
            nonlocal usage
            judged, spent = self._judge(asked, recording, one)
            usage += spent
            candidates.extend([judged] if self._fits(judged, moa) else [])
            return judged

        for strategy in self._asking:
            left = self.max_calls - count_rotations(strategy)
            asking = [replace(one, strategy=strategy.name, weights={}) for one in made]
            several = [one for one in asking if 1 < one.calls <= left]
            if several and not self.aggregators:
                judge(max(several, key=lambda one: one.score))
            for model in self.aggregators if several else ():
                _grow([replace(one, aggregator=model) for one in asking], prices, left, judge)
        if not candidates:
            cheapest = min((price for price in prices.values() if price is not None), default=None)
            price = "" if cheapest is None else f" The cheapest proposal costs {cheapest:.2g} USD."
            said = f"Nothing that was asked for fits into the budget.{price} Raise it."
            raise CompileInterrupted(said, recording=recording)
        self.report = self._choose(candidates, usage, bool(asked.val))
        return self._mixture(moa, self.report.chosen)

    @property
    def _asking(self) -> list[Strategy]:
        return [strategy for name, strategy in self.strategies.items() if name != "voting"]

    def _fits(self, one: Candidate, moa: MoA) -> bool:
        is_affordable = self.max_usd is None or (one.cost_usd is not None and one.cost_usd <= self.max_usd)
        return is_affordable and moa.limits.min_proposals <= one.calls <= self.max_calls

    def _judge(self, asked: Asked, recording: Recording, committee: Candidate) -> tuple[Candidate, Usage]:
        """A committee whose aggregator is really asked, on the recorded proposals."""
        examples = asked.val or asked.train
        replayed = replay(self._mixture(asked.moa, committee), recording, ask_aggregator=True)
        verdicts = ask_examples(replayed, examples, concurrency=self.concurrency, strategies=None)
        row_of, usage = find_rows(asked.moa.signature, verdicts), verdicts.usage
        answers = [row.outputs if (row := row_of(example)) else None for example in examples]
        with keeping(recording):
            scores = np.array([asked.scored.number(*pair) for pair in zip(examples, answers, strict=True)])
        calls, cost = committee.calls + usage.calls / len(verdicts), None
        if committee.cost_usd is not None and usage.cost_usd is not None and not usage.unpriced_calls:
            cost = committee.cost_usd + usage.cost_usd / len(verdicts)
        return replace(committee, scores=scores, calls=calls, cost_usd=cost), usage

    def _choose(self, candidates: list[Candidate], usage: Usage, has_valset: bool) -> CommitteeReport:
        candidates.sort(key=lambda one: one.calls)
        chosen = pick(candidates, lambda one: one.calls if self.max_usd is None else one.cost_usd or 0.0)
        number, where = len(chosen.scores), "of the valset" if has_valset else "held out"
        if chosen.strategy != "voting":
            where = f"of the {'valset' if has_valset else 'trainset'}, by which its proposers were chosen too"
            where += " (it looks better than it is)"
        reason = f"Use {chosen}, {chosen.calls:.3g} LM calls per question: {chosen.score:.3f} on {number} examples "
        single = next((one for one in candidates if one.is_single), None)
        gain, interval = None if single is None else chosen.score - single.score, None
        if single is None or single is chosen:
            others = "; ".join(f"{one} {one.score:.3f}" for one in candidates if one is not chosen)
            reason += where + (f". The others: {others}." if others else ".")
        else:
            low, high = interval = difference_interval(chosen.scores, single.scores)
            reason += f"{where}, against {single.score:.3f} of {single} ({gain:+.3f}, 95% {low:+.3f} to {high:+.3f})."
            reason += " The gain may be chance, which more examples would tell." if low <= 0 < (gain or 0) else ""
        if number < FEW and any(one.strategy == "voting" and not one.is_single for one in candidates):
            reason += f" On so few only what is proven replaces the vote of all: give {FEW} examples."
        return CommitteeReport(candidates, chosen, reason, usage, gain, interval)

    def _mixture(self, moa: MoA, chosen: Candidate) -> MoA:
        lm = self.aggregators.get(chosen.aggregator or "", moa.aggregator.lm)
        if chosen.strategy == moa.strategy.name != "voting":  # with its compiled prompts
            mixture = restricted(moa, chosen.agents, chosen.samples)
            mixture.aggregator.lm = lm
            return mixture
        is_vote = chosen.strategy == "voting"
        strategy = voting_of(moa, chosen.weights) if is_vote else self.strategies[chosen.strategy]
        return restricted(moa, chosen.agents, chosen.samples, strategy, None if is_vote else lm)


def list_committees(votes: Votes, trained: int, prices: Prices | None = None) -> Iterator[Candidate]:
    """The committee that votes, of each size and number of samples: the most accurate agents.

    The first `trained` votes are of the trainset, the others of the valset; `prices` are in USD per proposal. On few
    votes that of all is not weighted.
    """
    for samples in range(1, votes.samples + 1):
        here = votes.of_agents(votes.agents, samples)
        val, fitted = here.rows(slice(trained, None)), Weights(here.rows(slice(None, trained)))
        for size in range(1, len(here.agents) + 1):
            is_plain = size == len(here.agents) > 1 and (len(val.scores) or trained) < FEW
            found = np.ones(size) if is_plain else fitted.of(size)
            weights = {name: w for name, w in zip(here.agents, found.tolist(), strict=True) if w > 0}
            if len(weights) < size:  # one more who weighs nothing: the committee before
                continue
            held_out = here.score(found) if is_plain else fitted.score_held_out(size)
            yield Candidate(
                agents=tuple(weights),
                samples=samples,
                weights={} if len(weights) == 1 or is_plain else weights,
                calls=len(weights) * samples,
                cost_usd=_price(weights, samples, prices or {}),
                scores=val.score(found) if len(val.scores) else held_out,
            )


def pick(candidates: Sequence[Candidate], cost_of: Callable[[Candidate], float] = lambda one: one.calls) -> Candidate:
    """The candidate to use, by its scores per question and what it costs, in calls or in money.

    The best score of many is a matter of chance on a few hundred questions, so the choice is between the cheapest
    (one model alone) and the dearest (all of them). Another is taken only if it is better by more than one standard
    error (Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3). On fewer than `FEW` questions
    chance decides between those two as well: the vote of all stays, unless another is better by two.
    """

    def mean(one: Candidate) -> float:
        return round(one.score, 9)

    order = sorted(candidates, key=lambda one: (cost_of(one), -mean(one)))
    cheapest, dearest = order[0], max(order, key=lambda one: (cost_of(one), mean(one)))
    anchor = cheapest if mean(cheapest) >= mean(dearest) else dearest
    votes = [one for one in order if one.strategy == "voting" and not one.is_single]
    if is_few := bool(votes) and len(cheapest.scores) < FEW:
        anchor = votes[-1]
    evident = [one for one in order if is_win(one.scores, anchor.scores, 2 if is_few else 1)]
    return max(evident, key=mean, default=anchor)


def price_proposals(agents: Sequence[str], recording: Recording) -> Prices:
    """Agent -> USD per proposal, on average; None where a price is not known or DSPy's cache answered."""
    prices: dict[str, float | None] = {}
    for name in agents:
        spent, proposals = Usage.of([]), 0
        for row in recording:
            usage = Usage.of(call for call in row.calls if call.agent == name)
            if usage.calls and not usage.cache_hits:
                spent += usage
                proposals += sum(agent_of(id) == name for id in row.asked)
        prices[name] = None if spent.unpriced_calls or not proposals else (spent.cost_usd or 0.0) / proposals
    return prices


def _grow(asking: Sequence[Candidate], prices: Prices, most: float, judge: Callable[[Candidate], Candidate]) -> None:
    """Judge committees, from the best single model on: each step adds who gains most, while one does."""
    single = max((one for one in asking if len(one.agents) == 1), key=lambda one: one.score)
    everyone, samples = max(asking, key=lambda one: len(one.agents)).agents, single.samples
    members, best = {*single.agents}, 0.0
    while len(members) < len(everyone) and (len(members) + 1) * samples <= most:
        tried = []
        for added in (name for name in everyone if name not in members):
            agents = tuple(name for name in everyone if name in members or name == added)
            cost = _price(agents, samples, prices)
            tried.append(judge(replace(single, agents=agents, calls=len(agents) * samples, cost_usd=cost)))
        leading = max(tried, key=lambda one: one.score)
        if leading.score <= best:
            break
        members, best = {*leading.agents}, leading.score


def _price(agents: Iterable[str], samples: int, prices: Prices) -> float | None:
    known = [prices.get(name) for name in agents]
    return None if None in known else samples * sum(price or 0.0 for price in known)
