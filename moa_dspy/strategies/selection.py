"""Selection: names the best proposal; the answer is that proposal, unchanged."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import dspy

from moa_dspy.agent import Agent
from moa_dspy.concurrency import Batch, Call, Steps, together
from moa_dspy.rendering import group_identical
from moa_dspy.signatures import CHOICE, among, selection_signature
from moa_dspy.strategies.base import FAILED, Case, Reply, Strategy, Verdict

__all__ = ["Function", "Selection", "Verifier", "score_proposals"]

Verifier: TypeAlias = Callable[..., Any] | dspy.Module
"""`verifier(example, prediction)`, a number or a bool; or a module from the task's fields to a `score`."""


class Selection(Strategy):
    """The aggregator names the best proposal by its label; the answer is that proposal, value for value.

    `rotations` aggregator calls, none if all proposals are identical. Judges favour places in the list (Wang et al.,
    "Large Language Models are not Fair Evaluators", 2023), so each rotation shows the proposals in turned order; the
    verdicts are tallied by proposal. A rotation that fails is told in `metadata.failures`, and the others decide.

    With `verifiers` (metrics, unit tests, judges) the proposal with the best mean score is the answer, and
    `metadata.scores` holds them all. The aggregator, if there is one, only chooses among different answers that
    share the best score.

    Args:
        rotations: How often to ask. `metadata.flip_rate` is the share of verdicts against the winner.
        verifiers: What scores a proposal: `verifier(example, prediction)` with the inputs as example, giving a bool
            or a number; or a module, perhaps an `Agent` on a model of its own, from the task's fields to a `score`.
            A model's judgement of its own proposal is left out.
        verifier_weights: What each verifier's score counts, in their order; by default all the same.

    Examples:
        >>> from moa_dspy import MoA, Selection
        >>> strategy = Selection(verifiers=[lambda example, prediction: len(prediction.answer) < 10])
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], strategy=strategy)
        >>> moa(question="What is the capital of Peru?").metadata.scores
        {'alice': 1.0, 'bob': 1.0}
    """

    name = "selection"
    needs_aggregator = True
    asks_one_lm = True

    def __init__(
        self, rotations: int = 1, *, verifiers: Sequence[Verifier] = (), verifier_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        if not isinstance(rotations, int) or rotations < 1:
            raise ValueError(f"rotations={rotations!r} asks for no verdict at all. Give a whole number from 1.")
        if wrong := [verifier for verifier in verifiers if not callable(verifier)]:
            raise TypeError(f"The verifier {wrong[0]!r} cannot be called. Give a function, a module or an Agent.")
        weights = [1.0] * len(verifiers) if verifier_weights is None else list(verifier_weights)
        number = len(verifiers)
        if number and (len(weights) != number or min(weights) < 0 or not any(weights)):
            told = f"verifier_weights={verifier_weights!r} do not weigh {number} verifiers."
            raise ValueError(f"{told} Give each a number from 0, not all of them 0.")
        self.rotations, self.verifier_weights = rotations, weights
        for place, verifier in enumerate(verifiers, start=1):  # on attributes, where DSPy finds their predictors
            setattr(self, f"verifier_{place}", verifier if isinstance(verifier, dspy.Module) else Function(verifier))
        if verifiers:
            self.needs_aggregator = False
            self.asks_one_lm = not any(isinstance(verifier, dspy.Module) for verifier in verifiers)

    @property
    def verifiers(self) -> list[dspy.Module]:
        """What scores proposals; functions as modules."""
        return [part for name, part in vars(self).items() if name.startswith("verifier_") and name[9:].isdigit()]

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        if self.has_aggregator:
            self.select = dspy.Predict(selection_signature(task))

    def decide(self, case: Case) -> Steps[Verdict]:
        if not self.verifiers:
            return (yield from self._judge(case))
        scores, errors = yield from score_proposals(self.verifiers, case, self.verifier_weights)
        best = max(scores.values(), default=0.0)
        leading = [one for one in case.proposals if not scores or scores.get(one.id, -math.inf) >= best - 1e-9]
        if case.has_aggregator:
            verdict = yield from self._judge(replace(case, proposals=leading))
        else:
            winner = max(group_identical(leading), key=len)[0]
            verdict = Verdict(winner.outputs, selected=winner.id)
        return replace(verdict, scores=scores, errors=[*verdict.errors, *errors])

    def _judge(self, case: Case) -> Steps[Verdict]:
        if len(group_identical(case.proposals)) == 1:
            return Verdict(case.proposals[0].outputs, selected=case.proposals[0].id)
        attempts = yield from together(*(self._ask(case, rotation) for rotation in range(self.rotations)))
        errors = [attempt for attempt in attempts if isinstance(attempt, Exception)]
        replies = [attempt for attempt in attempts if isinstance(attempt, Reply)]
        if not replies:
            raise errors[0]
        chosen = [reply.chosen(CHOICE) for reply in replies]
        verdicts = Counter(group[0].id for group in chosen)
        # Ties go to what more proposals gave, then by declared order.
        support = {proposal.id: (verdicts[proposal.id], len(group)) for group in chosen for proposal in group[:1]}
        winner = max(case.proposals, key=lambda proposal: support.get(proposal.id, (0, 0)))
        place = [group[0].id for group in chosen].index(winner.id)
        return Verdict(
            winner.outputs,
            selected=winner.id,
            flip_rate=1 - verdicts[winner.id] / len(replies),
            errors=errors,
            **{**replies[0].told, "repaired": any(reply.repaired for reply in replies)},
            reasoning=replies[place].prediction.get("reasoning"),
        )

    def _ask(self, case: Case, rotation: int) -> Steps[Reply | Exception]:
        """One rotation; one that fails leaves the verdict to the others."""
        try:
            return (yield from self.ask(self.select, case, narrow=among, rotation=rotation))
        except FAILED as error:
            return error


class Function(dspy.Module):
    """A function as a module: it is given the inputs as an example, and a proposal's outputs as a prediction."""

    def __init__(self, verify: Callable[..., Any]) -> None:
        super().__init__()
        self.verify = verify

    def forward(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        return self.verify(dspy.Example(dict(inputs)).with_inputs(*inputs), dspy.Prediction(dict(outputs)))


def score_proposals(
    verifiers: Sequence[dspy.Module], case: Case, weights: Sequence[float]
) -> Steps[tuple[dict[str, float], list[Exception]]]:
    """The weighted mean of what the verifiers give each proposal, of those that one scored; and what went wrong.

    Identical proposals are scored once. A model's judgement of its own proposal is left out. A verifier that fails on
    a proposal says nothing of it.
    """
    asked = [
        (verifier, weight, group)
        for verifier, weight in zip(verifiers, weights, strict=True)
        for group in group_identical(case.proposals)
        if weight > 0 and not {proposal.model for proposal in group} <= _models_of(verifier)
    ]
    calls = []
    for verifier, _, (proposal, *_) in asked:
        is_function = isinstance(verifier, Function)
        split = {"inputs": case.inputs, "outputs": proposal.outputs}
        calls.append(Call(verifier, split if is_function else {**case.inputs, **proposal.outputs}))
    outcomes = yield Batch(calls)
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    errors: list[Exception] = []
    for (_, weight, group), outcome in zip(asked, outcomes, strict=True):
        try:
            if outcome.error is not None:
                raise outcome.error
            score = float(outcome.value.score if isinstance(outcome.value, dspy.Prediction) else outcome.value)
            if not math.isfinite(score):
                raise ValueError(f"A verifier gave {score!r}, which is no score. Give a bool, or a finite number.")
            for proposal in group:
                found[proposal.id].append((weight, score))
        except Exception as error:
            errors.append(error)
    return {id: sum(w * s for w, s in rows) / sum(w for w, _ in rows) for id, rows in found.items()}, errors


def _models_of(verifier: dspy.Module) -> set[Any]:
    lms = verifier.lms if isinstance(verifier, Agent) else [predictor.lm for predictor in verifier.predictors()]
    return {lm.model for lm in lms if lm is not None}
