"""Voting: the most frequent answer, counted in code; and the count itself, of which ballots say the same."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import dspy
from dspy.adapters.utils import annotation_allows_none

from moa_dspy.concurrency import Steps
from moa_dspy.rendering import Rendering
from moa_dspy.signatures import BEST, CHOICE, GROUPS, among, selection_signature, voting_signature
from moa_dspy.strategies.answers import INEXACT, Answer, answer_of, may_hold, output_types
from moa_dspy.strategies.base import Case, Reply, Strategy, Unusable, Verdict
from moa_dspy.strategies.equality import ABSTAIN, TOLERANCE, cluster, normalise, same
from moa_dspy.strategies.normalizers import Convention, NormalizerName, find_convention

__all__ = ["Candidate", "Tally", "Voting", "count", "fall_back"]

logger = logging.getLogger(__name__)


class Voting(Strategy):
    """The most frequent answer, counted in code; the winner is an actual proposal, value for value.

    Answers are compared by type, all output fields together but those that explain or grade the others:
    `ballot.left_out` names them. Of answers that count as one, the most frequent spelling is returned. An aggregator is
    asked once at most: when free text leaves no majority, which answers are the same (not with `exact_text`), or when
    first place is tied. Ties: weight, then the aggregator, then declared order.

    Args:
        fields: The output fields that make up a ballot; by default all but those that explain or grade.
        weights: Agent -> what its vote counts (1 if not named).
        early_stop: Return as soon as the lead cannot be overtaken; the rest is cancelled or abandoned.
        tolerance: How far two numbers may differ and still be the same, as a share of the larger.
        exact_text: Compare text letter by letter, as for code or passwords. Otherwise case, white space and invisible
            characters are folded, and empty text and refusals abstain.
        normalize: What makes a field's value comparable first: a function, or `"number"`, `"choice"`, `"latex"` or
            `"date"` (see `NORMALIZERS`), by which `$1,000` and `1000` are one answer. The value returned is as it was.

    Raises:
        ValueError: If a setting would make no count; at binding, if a field or an agent is unknown.
    """

    name = "voting"
    asks_one_lm = True
    ballot: Answer | None = None
    """Once bound: the output fields that make up a ballot, and the paths of what is left out."""
    group: dspy.Predict | None = None
    break_tie: dspy.Predict | None = None

    def __init__(
        self,
        fields: Sequence[str] | None = None,
        *,
        weights: Mapping[str, float] | None = None,
        early_stop: bool = False,
        tolerance: float = TOLERANCE,
        exact_text: bool = False,
        normalize: Convention | NormalizerName | None = None,
    ) -> None:
        super().__init__()
        self.weights = dict(weights or {})
        for what, number in [("tolerance", tolerance), *((f"weight of {a!r}", w) for a, w in self.weights.items())]:
            if not (math.isfinite(number) and number >= 0):
                raise ValueError(f"The {what} is {number}: the count would mean nothing. Give 0 or more.")
        if fields is not None and (isinstance(fields, str) or not fields):
            raise ValueError(f"fields={fields!r} names no output fields to vote on. Give a list, or none at all.")
        find_convention(normalize)
        self.fields = None if fields is None else list(fields)
        self.early_stop = early_stop
        self.tolerance = tolerance
        self.exact_text = exact_text
        self.normalize: Convention | NormalizerName | None = normalize

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        if unknown := [agent for agent in self.weights if agent not in agents]:
            raise ValueError(
                f"Voting names the agent {unknown[0]!r}, which there is not, so it would count for nothing. "
                f"Known: {', '.join(agents)}."
            )
        self.ballot = answer_of(task, self.fields)
        if self.ballot.left_out:
            logger.info("The vote leaves out %s. Name in fields= what should count.", ", ".join(self.ballot.left_out))
        # An optimizer would tune predictors that nobody asks, and pay for it.
        may_be_reworded = not self.exact_text and any(may_hold(kind, str) for kind in self._types(task).values())
        self.group = dspy.Predict(voting_signature(task)) if self.has_aggregator and may_be_reworded else None
        self.break_tie = dspy.Predict(selection_signature(task)) if self.has_aggregator else None

    def decide(self, case: Case) -> Steps[Verdict]:
        tally, reply, best = self.count(case), None, ""
        if not case.has_aggregator or len(tally.candidates) < 2:
            pass
        elif tally.agreement <= 0.5 and self.group is not None:
            reply = yield from self.ask(self.group, case, narrow=among, complaint=_find_overlap)
            labels = reply.shown.labels
            groups = [[one.id for label in group for one in labels[label]] for group in reply.prediction[GROUPS]]
            tally = self.count(case, groups)
            # The same call named the best proposal: it decides a tie, so that a vote costs one call at most.
            best = reply.chosen(BEST)[0].id
        elif len(tally.tied) > 1 and self.break_tie is not None:
            tied = replace(case, proposals=[case.proposal(candidate.representative) for candidate in tally.tied])
            reply = yield from self.ask(self.break_tie, tied, narrow=among)
            best = reply.chosen(CHOICE)[0].id
        if any(best in candidate.voters for candidate in tally.tied):
            first = sorted(tally.candidates, key=lambda candidate: best not in candidate.voters)
            tally = replace(tally, candidates=tuple(first))
        return self._verdict(case, tally, reply)

    def is_decided(self, case: Case, pending: Mapping[str, str]) -> bool:
        return self.count(case).is_decided(math.fsum(self.weights.get(agent, 1.0) for agent in pending.values()))

    def count(self, case: Case, groups: Sequence[Collection[str]] = ()) -> Tally:
        """Count the proposals; those that did not come abstain. `groups` are ids that are known to say the same."""
        types, came = self._types(case.task), {proposal.id: proposal.outputs for proposal in case.proposals}
        return count(
            {id: {name: came[id].get(name) for name in types} if id in came else {} for id in case.asked},
            types,
            weights={id: self.weights.get(agent, 1.0) for id, agent in case.asked.items()},
            tolerance=self.tolerance,
            groups=groups,
            exact_text=self.exact_text,
            convention=find_convention(self.normalize),
        )

    def _verdict(self, case: Case, tally: Tally, reply: Reply | None = None) -> Verdict:
        """The leading proposal; if all say None, and the task allows it, that is the answer."""
        types, number = self._types(case.task), len(case.proposals)
        says_none = all(proposal.outputs.get(name) is None for proposal in case.proposals for name in types)
        if tally.winner is None and not (says_none and all(map(annotation_allows_none, types.values()))):
            raise Unusable(f"All {number} proposals abstain (None, empty, or a refusal): there is nothing to count.")
        id = tally.winner.representative if tally.winner else case.proposals[0].id
        return Verdict(case.proposal(id).outputs, selected=id, tally=tally, **(reply.told if reply else {}))

    def _types(self, task: type[dspy.Signature]) -> dict[str, Any]:
        types = output_types(task)
        return {name: types[name] for name in answer_of(task, self.fields).fields}


def fall_back(case: Case, strategy: Strategy | None = None) -> Verdict:
    """The vote among the proposals, without any model; counted as the strategy does, if it is a vote itself."""
    voting = strategy if isinstance(strategy, Voting) else Voting()
    return voting._verdict(case, voting.count(case))


def _find_overlap(prediction: dspy.Prediction, shown: Rendering) -> str | None:
    labels = [label for group in prediction[GROUPS] for label in set(group)]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    return f"{', '.join(twice)} stand in two groups of answers at once." if twice else None


@dataclass(frozen=True)
class Candidate:
    """Ballots that say the same, counted as one; `heaviest` is the highest weight of a single one.

    `values` are those of the representative, unchanged: the first voter who spells it as most of the weight does.
    """

    voters: tuple[str, ...]
    weight: float
    values: Mapping[str, Any]
    representative: str
    heaviest: float


@dataclass(frozen=True)
class Tally:
    """The result of a count: candidates by weight, then by the heaviest single supporter, then by declared order.

    A voter abstains if each of its fields does; `weight` is that of all ballots. `may_merge`: a ballot to come (a
    number between two others) or a model (two wordings of one answer) may yet unite what stands apart here.
    """

    candidates: tuple[Candidate, ...]
    abstained: tuple[str, ...]
    weight: float
    may_merge: bool

    @property
    def winner(self) -> Candidate | None:
        """The best candidate, which may be tied; None when nobody with a weight voted."""
        return self.candidates[0] if self.candidates and self.candidates[0].weight > 0 else None

    @property
    def agreement(self) -> float:
        """The winner's share of all weight, abstentions included; 0 without a winner."""
        return self.winner.weight / self.weight if self.winner else 0.0

    @property
    def tied(self) -> tuple[Candidate, ...]:
        """The candidates that share first place by weight and by heaviest supporter: one when there is no tie."""
        first = self.winner
        return tuple(c for c in self.candidates if first and (c.weight, c.heaviest) == (first.weight, first.heaviest))

    def is_decided(self, outstanding: float) -> bool:
        """Whether ballots of so much weight, however they are cast, can change no more which candidate wins.

        The leader must stay strictly ahead; where candidates may yet be united, of all others together.
        """
        others = [candidate.weight for candidate in self.candidates[1:]]
        rival = _sum(others) if self.may_merge else max(others, default=0.0)
        return self.winner is not None and self.winner.weight > _sum([rival, outstanding])


def count(
    values: Mapping[str, Mapping[str, Any]],
    kinds: Mapping[str, Any],
    *,
    weights: Mapping[str, float] | None = None,
    tolerance: float = TOLERANCE,
    groups: Sequence[Collection[str]] = (),
    exact_text: bool = False,
    convention: Callable[[Any], Any] | None = None,
) -> Tally:
    """Count what voters, in declared order, answer: those that say the same as one candidate.

    Two say the same when all fields in `kinds` do, and so do those that a chain of alike ones links: which groups
    there are does not depend on the order. Who weighs nothing (1 if not named) joins a group, and unites none; `groups`
    are voters that a model found to say the same. For the rest see `normalise` and `same`.

    Examples:
        >>> tally = count({"a": {"n": -5}, "b": {"n": 5}, "c": {"n": "5"}}, {"n": int})
        >>> tally.winner.values, tally.winner.voters, round(tally.agreement, 2)
        ({'n': 5}, ('b', 'c'), 0.67)
    """
    weight = {voter: (weights or {}).get(voter, 1.0) for voter in values}
    every = {voter: _form(said, kinds, exact_text=exact_text, convention=convention) for voter, said in values.items()}
    forms = {voter: form for voter, form in every.items() if any(field is not ABSTAIN for field in form)}
    candidates = [_candidate(alike, values, weight, kinds) for alike in _group(forms, weight, tolerance, groups)]
    return Tally(
        candidates=tuple(sorted(candidates, key=lambda candidate: (-candidate.weight, -candidate.heaviest))),
        abstained=tuple(voter for voter in values if voter not in forms),
        weight=_sum(weight.values()),
        may_merge=any(may_hold(kind, (str, *INEXACT) if tolerance else str) for kind in kinds.values()),
    )


def _form(said: Mapping[str, Any], kinds: Mapping[str, Any], **settings: Any) -> tuple[Hashable, ...]:
    return tuple(normalise(said.get(name), kind, **settings) for name, kind in kinds.items())


def _group(
    forms: Mapping[str, Hashable], weight: Mapping[str, float], tolerance: float, groups: Sequence[Collection[str]]
) -> list[list[str]]:
    weighty = [voter for voter in forms if weight[voter] > 0]
    number = dict(zip(weighty, cluster([forms[voter] for voter in weighty], tolerance), strict=True))
    for group in groups:
        joined = {number[voter] for voter in group if voter in number}
        number = {voter: min(joined) if own in joined else own for voter, own in number.items()}
    without = [voter for voter in forms if voter not in number]
    for voter, own in zip(without, cluster([forms[voter] for voter in without], tolerance), strict=True):
        near = [other for other in weighty if same(forms[voter], forms[other], tolerance=tolerance)]
        first = min(near, key=lambda other: repr(forms[other]), default=None)
        number[voter] = len(forms) + own if first is None else number[first]
    found: dict[int, list[str]] = {own: [] for own in number.values()}
    for voter in forms:
        found[number[voter]].append(voter)
    return list(found.values())


def _candidate(
    voters: Sequence[str],
    values: Mapping[str, Mapping[str, Any]],
    weight: Mapping[str, float],
    kinds: Mapping[str, Any],
) -> Candidate:
    spoken, weights = voters[0], [weight[voter] for voter in voters]
    if len(voters) > 1:  # Bxc3 is another move than bxc3, though counted as one
        spelling = {voter: _form(values[voter], kinds, exact_text=True) for voter in voters}
        support: dict[Hashable, list[float]] = defaultdict(list)
        for voter in voters:
            support[spelling[voter]].append(weight[voter])
        spoken = max(voters, key=lambda voter: (_sum(support[spelling[voter]]), weight[voter]))
    return Candidate(tuple(voters), _sum(weights), values[spoken], spoken, _sum([max(weights)]))


def _sum(weights: Iterable[float]) -> float:
    """The sum to 12 digits, so that 0.1 + 0.2 is 0.3."""
    return float(f"{math.fsum(weights):.12g}")
