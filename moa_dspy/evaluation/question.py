"""One question put to all systems: the proposals once, then everything that is made of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import dspy

from moa_dspy.agent import Agent
from moa_dspy.concurrency import Steps, drive
from moa_dspy.errors import MoAError
from moa_dspy.evaluation.metrics import Metric, score
from moa_dspy.evaluation.records import Answer, Record, Spent
from moa_dspy.evaluation.systems import ORACLE, VOTE, Field
from moa_dspy.panel import Panel, Round, failure
from moa_dspy.results import Failure, MoAMetadata
from moa_dspy.secrets import redact
from moa_dspy.strategies import Case, Unusable, fall_back
from moa_dspy.usage import LMCall, metered
from moa_dspy.values import typed_outputs

__all__ = ["ask_all"]


def ask_all(field: Field, metric: Metric, number: int, example: dspy.Example) -> Record:
    """Put a question to all systems.

    Args:
        field: The systems.
        metric: Scores the answers.
        number: The question's place in the dataset.
        example: Its inputs and gold outputs.

    Raises:
        MetricError: If the metric gives no score.
    """
    inputs = {name: example[name] for name in field.moa.signature.input_fields if name in example}
    systems = AllSystems(field, metric, example)
    systems(**inputs)
    return Record(number, example, systems.proposals, systems.answers, [*systems.panel_calls(), *systems.calls])


class AllSystems(dspy.Module):
    """All systems on one question. A module, so that a trace shows them as one call."""

    def __init__(self, field: Field, metric: Metric, example: dspy.Example) -> None:
        super().__init__()
        self.field = field
        self.metric = metric
        self.example = example
        self.panels = [_AskedOnce(panel) for panel in field.moa.panels]
        self.proposals: dict[str, Answer] = {}
        self.answers: dict[str, Answer] = {}
        self.calls: list[LMCall] = []

    def forward(self, **inputs: Any) -> dspy.Prediction:
        self.inputs = inputs
        self.round = drive(self.panels[0].ask(inputs))
        self.proposals = self.scored(self.round)
        self.answers = dict(self._answers())
        return dspy.Prediction(**{name: answer.outputs for name, answer in self.answers.items()})

    def panel_calls(self) -> list[LMCall]:
        """The calls that all mixtures share, in the layers that were asked so far."""
        return [call for panel in self.panels if panel.round is not None for call in panel.round.calls]

    def _answers(self) -> Iterator[tuple[str, Answer]]:
        field, proposals = self.field, self.proposals
        for name in field.moa.panels[0].names:
            yield name, _mean([proposals[id] for id, agent in self.round.asked.items() if agent == name])
        if field.judge is not None and field.judge_name is not None:
            alone = drive(field.judge.ask(self.inputs))
            self.calls += alone.calls
            [answer] = self.scored(alone).values()
            yield field.judge_name, answer
        yield VOTE, self._vote()
        for name, aggregator in field.aggregators.items():
            yield name, self._mixture(aggregator)
        for name, module in field.others.items():
            yield name, self._other(name, module)
        best = max(proposals.values(), key=lambda answer: answer.score)
        yield ORACLE, Answer(best.outputs, best.score)

    def scored(self, round: Round) -> dict[str, Answer]:
        """Proposal id -> answer, also of those that failed."""
        received = {proposal.id: proposal for proposal in round.proposals}
        failures = iter(round.failures)
        answers = {}
        for id, agent in round.asked.items():
            calls = [call for call in round.calls if call.agent == agent]
            samples = list(round.asked.values()).count(agent)
            proposal = received.get(id)
            if proposal is None:
                cause = next(failures)  # both are in declared order
                answers[id] = Answer(None, 0.0, Spent.of(calls, cause.seconds, samples), cause)
            else:
                spent = Spent.of(calls, proposal.seconds, samples)
                answer = self._answer(proposal.outputs, spent, {"reasoning": proposal.reasoning})
                answers[id] = replace(answer, reasoning=proposal.reasoning)
        return answers

    def _vote(self) -> Answer:
        field, round = self.field, self.round
        spent = Spent.of(round.calls, self.panels[0].seconds)
        if not round.proposals:
            return Answer(None, 0.0, spent)
        try:
            verdict = fall_back(Case(field.moa.signature, self.inputs, round.proposals, round.asked))
        except Unusable as error:
            return Answer(None, 0.0, spent, Failure(agent=VOTE, error="Unusable", message=str(error)))
        return self._answer(verdict.outputs, spent)

    def _mixture(self, aggregator: Agent) -> Answer:
        mixture = copy.copy(self.field.moa)
        mixture.aggregator = aggregator
        for name, panel in zip(mixture.panel_names, self.panels, strict=True):
            setattr(mixture, name, panel)
        before = sum(panel.seconds for panel in self.panels)
        try:
            prediction = mixture(**self.inputs)
        except MoAError as error:
            return Answer(None, 0.0, self._mixed(error.metadata, before), failure(aggregator, error, 0.0))
        account = prediction.metadata
        spent = self._mixed(account, before)
        if not account.fallback_used:
            return self._answer(dict(prediction.items()), spent)
        cause = next(failed for failed in account.failures if failed.agent == aggregator.name)
        return replace(self._answer(dict(prediction.items()), spent), failure=cause, fallback=True)

    def _mixed(self, account: MoAMetadata, before: float) -> Spent:
        """What a mixture takes on its own, the panels that were asked before it included."""
        self.calls += account.calls[len(self.panel_calls()) :]
        return Spent.of(account.calls, before + account.seconds)

    def _other(self, name: str, module: dspy.Module) -> Answer:
        started, failed, outputs = time.perf_counter(), None, None
        with metered(name) as meter:
            try:
                outputs = typed_outputs(module(**self.inputs), self.field.moa.signature)
            except Exception as error:
                failed = Failure(agent=name, error=type(error).__name__, message=redact(str(error))[:500])
        self.calls += meter.calls()
        spent = Spent.of(meter.calls(), time.perf_counter() - started)
        return Answer(None, 0.0, spent, failed) if outputs is None else self._answer(outputs, spent)

    def _answer(self, outputs: Mapping[str, Any], spent: Spent, beside: Mapping[str, Any] | None = None) -> Answer:
        prediction = dspy.Prediction(**{**(beside or {}), **outputs})
        return Answer(outputs, score(self.metric, self.example, prediction), spent)


class _AskedOnce:
    """A panel that is asked once, and gives every mixture the same proposals.

    A vote that would stop early gets all of them too: the others need them.
    """

    def __init__(self, panel: Panel) -> None:
        self.names = panel.names
        self.agents = panel.agents
        self.panel = panel
        self.round: Round | None = None
        self.seconds = 0.0

    def ask(self, inputs: Mapping[str, Any], is_decided: Any = None) -> Steps[Round]:
        if self.round is None:
            started = time.perf_counter()
            self.round = yield from self.panel.ask(inputs)
            self.seconds = time.perf_counter() - started
        return self.round


def _mean(samples: Sequence[Answer]) -> Answer:
    """One model alone: the mean of its samples, shown by the first one that came, with what went wrong in another."""
    first = next((answer for answer in samples if answer.outputs is not None), samples[0])
    cause = next((answer.failure for answer in samples if answer.failure is not None), None)
    return replace(first, score=fmean(answer.score for answer in samples), failure=cause)
