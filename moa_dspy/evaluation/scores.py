"""What each system answered to a recorded question, what that takes on its own, and how it scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import dspy

from moa_dspy.evaluation.metrics import Metric, prediction_of, score
from moa_dspy.moa import MoA
from moa_dspy.recording import RecordedVerdict, Row
from moa_dspy.recording.replay import proposal_ids
from moa_dspy.recording.rows import IMPORTED, agent_of, typed
from moa_dspy.results import Failure
from moa_dspy.strategies import Case, Unusable, fall_back
from moa_dspy.usage import LMCall
from moa_dspy.values import validated

__all__ = ["ORACLE", "VOTE", "Answer", "Kind", "ScoredRow", "System", "score_row", "typed_example"]

Kind = Literal["proposer", "aggregator", "vote", "strategy", "other", "oracle"]
VOTE, ORACLE = "plain vote", "oracle"


@dataclass(frozen=True)
class System:
    """One of what is compared.

    Attributes:
        name: An agent's, that of a verdict in the recording, `"plain vote"` or `"oracle"`.
        kind: `proposer`, `aggregator`: that model alone, with the proposers' prompt. `vote`: the plain count of the
            proposals, without a model. `strategy`: the whole mixture. `oracle`: the best of the proposals, found with
            the gold answer; a bound for all that pick one, not a system. `other`: a module that was given.
        models: The models that were asked for its answers.
    """

    name: str
    kind: Kind
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What a system answered to one question.

    Attributes:
        outputs: The task's outputs; None if there is no answer.
        score: What the metric gave; 0 without an answer, the mean where a model gave several samples.
        failure: Why there is no answer, or why the aggregator's or a sample is missing.
        fallback_used: The aggregator failed; the answer is the vote among the proposals.
        calls: The LM calls that it takes on its own; None where they are not known.
        share: The part of these calls that it takes: a third for one of three samples.
        seconds: Wall time, with the proposers side by side.
    """

    outputs: Mapping[str, Any] | None
    score: float = 0.0
    failure: Failure | None = None
    fallback_used: bool = False
    calls: Sequence[LMCall] | None = None
    share: float = 1.0
    seconds: float = 0.0


@dataclass(frozen=True)
class ScoredRow:
    """A recorded question, scored.

    Attributes:
        row: What was recorded.
        example: Its inputs and gold outputs, as the metric saw them.
        proposals: Proposal id -> score, of the first layer; 0 for those that failed.
        answers: System -> its answer.
    """

    row: Row
    example: dspy.Example
    proposals: Mapping[str, float]
    answers: Mapping[str, Answer]


def score_row(moa: MoA, row: Row, example: dspy.Example, systems: Sequence[System], metric: Metric) -> ScoredRow:
    """Score what every system answered to a question.

    Raises:
        MetricError: If the metric gives no score.
    """
    recorded = _Recorded(moa, row, example, metric)
    samples = {id: recorded.sample(id) for id in proposal_ids(moa.panels[0])}
    answers = {}
    for system in systems:
        if system.kind == "proposer":
            answers[system.name] = _average([sample for id, sample in samples.items() if agent_of(id) == system.name])
        elif system.kind == "oracle":
            best = max(samples.values(), key=lambda sample: sample.score)
            answers[system.name] = Answer(best.outputs, best.score)
        else:
            answers[system.name] = recorded.vote() if system.kind == "vote" else recorded.verdict(system)
    return ScoredRow(row, example, {id: sample.score for id, sample in samples.items()}, answers)


def typed_example(example: dspy.Example, task: type[dspy.Signature]) -> dspy.Example:
    """A question that a file held as a metric takes it: inputs and gold outputs of the task's types."""
    for name, info in task.fields.items():
        if example.get(name) is not None:
            try:
                example[name] = validated(example[name], info.annotation)
            except ValueError:  # a gold value that only the metric knows how to read
                continue
    return example


class _Recorded:
    """A recorded question, as a mixture and a metric see it."""

    def __init__(self, moa: MoA, row: Row, example: dspy.Example, metric: Metric) -> None:
        self.moa, self.row, self.example, self.metric = moa, row, example, metric
        self.panel = moa.panels[0]
        self.received = {proposal.id: proposal for proposal in row.proposals if proposal.layer == 1}
        self.failed = {failure.id: failure for failure in row.failures if failure.layer == 1}
        self.is_measured = bool(row.calls) or row.mixture != IMPORTED
        # A recording may hold more agents and samples than this mixture asks.
        self.calls = [call for call in row.calls if any(call.agent in panel.names for panel in moa.panels)]
        recorded = sum(agent_of(id) == self.panel.names[0] for id in row.asked)
        self.one_sample = 1 / max(recorded, self.panel.samples)

    def sample(self, id: str) -> Answer:
        """What one proposer said."""
        agent, proposal = agent_of(id), self.received.get(id)
        if proposal is None:
            failure = self.failed.get(id) or self._failure(agent)
            answer = Answer(None, failure=failure, seconds=failure.seconds)
        else:
            answer = self._scored(proposal.outputs, {"reasoning": proposal.reasoning})
            answer = replace(answer, seconds=proposal.seconds)
        return replace(answer, calls=self._calls_of_first_layer([agent]), share=self.one_sample)

    def vote(self) -> Answer:
        """The plain count of the first layer's proposals."""
        task, ids = self.moa.signature, proposal_ids(self.panel)
        proposals = [
            self.received[id].model_copy(update={"outputs": typed(self.received[id].outputs, task)})
            for id in ids
            if id in self.received
        ]
        answer = Answer(None)
        if proposals:
            try:
                case = Case(task, self.row.inputs, proposals, {id: agent_of(id) for id in ids})
                answer = self._scored(fall_back(case).outputs)
            except Unusable as error:
                answer = Answer(None, failure=Failure(agent=VOTE, error="Unusable", message=str(error)))
        calls, share = self._calls_of_first_layer(self.panel.names), self.panel.samples * self.one_sample
        return replace(answer, calls=calls, share=share, seconds=self._seconds(layer=1))

    def verdict(self, system: System) -> Answer:
        """What a strategy made of the proposals, or another system answered."""
        recorded = self.row.verdicts.get(system.name)
        if recorded is None:
            recorded = RecordedVerdict(outputs=None, failure=self._failure(system.name))
        answer = Answer(None) if recorded.outputs is None else self._scored(recorded.outputs)
        calls, seconds, share = recorded.calls, recorded.seconds, 1.0
        if system.kind == "strategy":  # on its own, it takes the whole panel too
            calls, share = [*self.calls, *calls], 1.0 if calls else self.panel.samples * self.one_sample
            seconds += sum(self._seconds(panel.layer) for panel in self.moa.panels)
        return replace(
            answer,
            failure=recorded.failure,
            fallback_used=recorded.fallback_used,
            calls=calls if self.is_measured else None,
            share=share,
            seconds=seconds,
        )

    def _scored(self, outputs: Mapping[str, Any], beside: Mapping[str, Any] | None = None) -> Answer:
        outputs = typed(outputs, self.moa.signature)
        return Answer(outputs, score(self.metric, self.example, prediction_of({**(beside or {}), **outputs})))

    def _calls_of_first_layer(self, agents: Sequence[str]) -> list[LMCall] | None:
        if not self.is_measured or len(self.moa.panels) > 1:  # a call does not say in which layer it was made
            return None
        return [call for call in self.calls if call.agent in agents]

    def _seconds(self, layer: int) -> float:
        answered = [proposal.seconds for proposal in self.row.proposals if proposal.layer == layer]
        failed = [failure.seconds for failure in self.row.failures if failure.layer == layer and failure.id]
        return max([*answered, *failed], default=0.0)

    def _failure(self, name: str) -> Failure:
        if self.row.error is not None:
            return Failure(agent=name, error=self.row.error.type, message=self.row.error.message)
        return Failure(agent=name, error="NotRecorded", message=f"The recording holds no answer of {name}.")


def _average(samples: Sequence[Answer]) -> Answer:
    """One model alone: the mean of its samples, shown by the first one that came, with what went wrong in another."""
    first = next((sample for sample in samples if sample.outputs is not None), samples[0])
    failure = next((sample.failure for sample in samples if sample.failure is not None), None)
    return replace(first, score=fmean(sample.score for sample in samples), failure=failure)
