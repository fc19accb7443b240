"""What each system answered to a recorded question, what that takes on its own, and how it scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import dspy

from moa_dspy.certainty import weigh_evidence
from moa_dspy.evaluation.metrics import Metric, prediction_of, score
from moa_dspy.moa import MoA
from moa_dspy.panel import Panel, proposal_ids
from moa_dspy.recording import RecordedVerdict, Row
from moa_dspy.recording.rows import IMPORTED, agent_of, typed
from moa_dspy.results import Failure
from moa_dspy.strategies import Case, Unusable, fall_back
from moa_dspy.usage import LMCall

__all__ = ["ORACLE", "VOTE", "Answer", "Kind", "ScoredRow", "System", "score_row"]

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
        confidence: The probability that it is right, as a calibrated mixture has it.
    """

    outputs: Mapping[str, Any] | None
    score: float = 0.0
    failure: Failure | None = None
    fallback_used: bool = False
    calls: Sequence[LMCall] | None = None
    share: float = 1.0
    seconds: float = 0.0
    confidence: float | None = None


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
    """Score what every system answered to a question; MetricError if the metric gives no score."""
    scorer = _Scorer(moa, row, example, metric)
    samples = {id: scorer.sample(id) for id in proposal_ids(moa.panels[0])}
    answers = {}
    for system in systems:
        if system.kind == "proposer":
            answer = _average([sample for id, sample in samples.items() if agent_of(id) == system.name])
        elif system.kind == "oracle":
            best = max(samples.values(), key=lambda sample: sample.score)
            answer = Answer(best.outputs, best.score)
        else:
            answer = scorer.vote() if system.kind == "vote" else scorer.verdict(system)
        answers[system.name] = answer
    return ScoredRow(row, example, {id: sample.score for id, sample in samples.items()}, answers)


class _Scorer:
    """Scores one recorded question."""

    def __init__(self, moa: MoA, row: Row, example: dspy.Example, metric: Metric) -> None:
        self.moa, self.row, self.example, self.metric = moa, row, example, metric
        self.panel = moa.panels[0]
        self.is_measured = bool(row.calls) or row.mixture != IMPORTED
        # A recording may hold more agents and samples than this mixture asks.
        self.calls = [call for call in row.calls if any(call.agent in panel.names for panel in moa.panels)]
        recorded = sum(agent_of(id) == self.panel.names[0] for id in row.asked)
        self.one_sample = 1 / max(recorded, self.panel.samples)

    def sample(self, id: str) -> Answer:
        taken: Any = {"calls": self._calls_of([agent_of(id)]), "share": self.one_sample}
        for proposal in self.row.proposals:
            if proposal.layer == 1 and proposal.id == id:
                answer = self._scored(proposal.outputs, reasoning=proposal.reasoning)
                return replace(answer, seconds=proposal.seconds, **taken)
        failed = (failure for failure in self.row.failures if failure.layer == 1 and failure.id == id)
        failure = next(failed, None) or self._missing(agent_of(id))
        return Answer(None, failure=failure, seconds=failure.seconds, **taken)

    def vote(self) -> Answer:
        answer, case = Answer(None), self._case(self.panel)
        if case.proposals:
            try:
                answer = self._scored(fall_back(case).outputs)
            except Unusable as error:
                answer = Answer(None, failure=Failure(agent=VOTE, error="Unusable", message=str(error)))
        calls, share = self._calls_of(self.panel.names), self.panel.samples * self.one_sample
        return replace(answer, calls=calls, share=share, seconds=self.row.slowest(1))

    def verdict(self, system: System) -> Answer:
        missing = RecordedVerdict(outputs=None, failure=self._missing(system.name))
        verdict = self.row.verdicts.get(system.name, missing)
        answer = Answer(None) if verdict.outputs is None else self._scored(verdict.outputs)
        calls, seconds, share = verdict.calls, verdict.seconds, 1.0
        if system.kind == "strategy":  # on its own, it takes the whole panel too
            share = 1.0 if calls else self.panel.samples * self.one_sample
            calls = [*self.calls, *calls]
            seconds += sum(self.row.slowest(panel.layer) for panel in self.moa.panels)
        return replace(
            answer,
            failure=verdict.failure,
            fallback_used=verdict.fallback_used,
            calls=calls if self.is_measured else None,
            share=share,
            seconds=seconds,
            confidence=self._confidence(system.name, verdict, answer.outputs or {}),
        )

    def _confidence(self, name: str, verdict: RecordedVerdict, outputs: Mapping[str, Any]) -> float | None:
        """How sure a calibrated mixture is of an answer; of this one's own strategy, also where it was not recorded."""
        if all(value is None for value in outputs.values()):  # there is none, or it abstained
            return None
        calibration, case = self.moa.calibration, self._case(self.moa.panels[-1])
        if calibration is None or name != self.moa.strategy.name or not case.proposals:
            return verdict.confidence
        beside: Any = {"flip_rate": verdict.flip_rate, "fallback_used": verdict.fallback_used}
        return calibration.confidence(weigh_evidence(case, outputs, self.moa.strategy, calibration.agents, **beside))

    def _case(self, panel: Panel) -> Case:
        task, ids = self.moa.signature, proposal_ids(panel)
        came = {one.id: one for one in self.row.proposals if one.layer == panel.layer}
        proposals = [came[id].model_copy(update={"outputs": typed(came[id].outputs, task)}) for id in ids if id in came]
        return Case(task, self.row.inputs, proposals, {id: agent_of(id) for id in ids})

    def _scored(self, outputs: Mapping[str, Any], **beside: Any) -> Answer:
        outputs = typed(outputs, self.moa.signature)
        return Answer(outputs, score(self.metric, self.example, prediction_of({**beside, **outputs})))

    def _calls_of(self, agents: Sequence[str]) -> list[LMCall] | None:
        if not self.is_measured or len(self.moa.panels) > 1:  # a call does not say in which layer it was made
            return None
        return [call for call in self.calls if call.agent in agents]

    def _missing(self, name: str) -> Failure:
        if self.row.error is not None:
            return Failure(agent=name, error=self.row.error.type, message=self.row.error.message)
        return Failure(agent=name, error="NotRecorded", message=f"The recording holds no answer of {name}.")


def _average(samples: Sequence[Answer]) -> Answer:
    """One model alone: the mean of its samples, shown by the first one that came, with what went wrong in another."""
    first = next((sample for sample in samples if sample.outputs is not None), samples[0])
    failure = next((sample.failure for sample in samples if sample.failure is not None), None)
    return replace(first, score=fmean(sample.score for sample in samples), failure=failure)
