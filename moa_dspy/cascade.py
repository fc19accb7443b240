"""A cascade: the next, dearer stage is asked only where the one before is not sure enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from moa_dspy.concurrency import Batch, Call, Steps, adrive, drive
from moa_dspy.errors import AggregationFailed, MoAError
from moa_dspy.moa import MoA
from moa_dspy.panel import KEPT, failure_of, proposal_ids
from moa_dspy.proposers import Proposer
from moa_dspy.results import MoAMetadata, MoAPrediction
from moa_dspy.secrets import Keyless
from moa_dspy.signatures import tell_apart
from moa_dspy.strategies import Case, Voting
from moa_dspy.values import outputs_of

__all__ = ["Cascade", "asks_aggregator"]


class Cascade(Keyless):
    """Stages of mixtures, the cheapest first: each is asked only if the one before is unsure.

    A stage stops the cascade when its calibrated confidence reaches its threshold (`Calibrate(max_error=...)` sets
    both; `FitCascade` finds the stages too). Proposals are kept: an agent of an earlier stage, known by its name, is
    not asked again. Where all that is left is a vote that can no longer change, it is not asked for either.

    `metadata` is the account of the whole; `metadata.stage` says which stage answered. A later stage that fails
    leaves the earlier one's answer, flagged by `abstained`.

    Args:
        stages: Calibrated mixtures; the last one may be any mixture, agent, module or model's name.

    Examples:
        ```python
        sure = Calibrate(max_error=0.05).compile(cheap, trainset=examples)
        cascade = Cascade([sure, MoA(task, [*models, "openai/gpt-5"], "anthropic/claude-opus-5")])
        cascade(question="Why is the sky blue?").metadata.stage  # 1 or 2
        ```
    """

    def __init__(self, stages: Sequence[MoA | Proposer]) -> None:
        super().__init__()
        if len(stages) < 2 or not isinstance(stages[0], MoA):
            raise ValueError(
                "A cascade has two stages or more and begins with a mixture: Cascade([moa, 'openai/gpt-5'])."
            )
        self.signature = stages[0].signature
        # Whoever answers alone is a mixture of one, so that there is one account of all.
        built = [one if isinstance(one, MoA) else MoA(self.signature, [one], strategy="voting") for one in stages]
        for number, (stage, later) in enumerate(pairwise(built), start=1):
            _check_pair(number, stage, later)
        for number, stage in enumerate(built, start=1):  # on attributes, where DSPy finds their predictors
            setattr(self, f"stage_{number}", stage)
        tell_apart(self.named_predictors())

    @property
    def stages(self) -> list[MoA]:
        """The mixtures, the first one first."""
        return [part for part in vars(self).values() if isinstance(part, MoA)]

    if TYPE_CHECKING:  # what DSPy declares as a mere Prediction

        def __call__(self, **inputs: Any) -> MoAPrediction: ...

        async def acall(self, **inputs: Any) -> MoAPrediction: ...

    def forward(self, **inputs: Any) -> MoAPrediction:
        return drive(self._answer(inputs))

    async def aforward(self, **inputs: Any) -> MoAPrediction:
        return await adrive(self._answer(inputs))

    def _answer(self, inputs: Mapping[str, Any]) -> Steps[MoAPrediction]:
        answered: Any = None
        for number, stage in enumerate(self.stages, start=1):
            before = None if answered is None else answered.metadata
            KEPT.set((stage, [one for one in before.all_proposals if one.layer == 1] if before else []))
            try:
                [outcome] = yield Batch([Call(stage, inputs)])
            finally:
                KEPT.set(None)
            if outcome.error is not None:
                if before is None:
                    raise outcome.error
                _enter_failure(before, stage, outcome.error)
                break
            answered = outcome.value
            account = answered.metadata
            account.stage = number
            if before is not None:
                _add(account, before, account)
            account.abstained = account.abstained and not self._is_settled(number, answered, inputs)
            if not account.abstained:
                break
        return cast(MoAPrediction, answered)

    def _is_settled(self, number: int, answered: MoAPrediction, inputs: Mapping[str, Any]) -> bool:
        """Whether all that is left is a vote, without a promise, that cannot change the answer."""
        stage, left = self.stages[number - 1], self.stages[number:]
        if not left or any(asks_aggregator(one) or len(one.panels) > 1 for one in left) or _has_threshold(left[-1]):
            return False
        last = left[-1]
        owners = {id: id.partition("#")[0] for id in proposal_ids(last.panels[0])}
        asked = {id: owners[id] for id in proposal_ids(stage.panels[0]) if id in owners}
        proposals = [one for one in answered.metadata.all_proposals if one.id in asked]
        case = Case(self.signature, inputs, proposals, asked, has_aggregator=False)
        pending = {id: agent for id, agent in owners.items() if id not in asked}
        if not proposals or not last.strategy.is_decided(case, pending):
            return False
        outputs = last.strategy.forward(case).outputs
        return all(outputs[name] == answered[name] for name in outputs_of(self.signature))


def asks_aggregator(moa: MoA) -> bool:
    """Whether an answer of the mixture may take a call of its aggregator, so that code alone does not give it."""
    return not isinstance(moa.strategy, Voting) or moa.aggregator.lm is not None


def _has_threshold(moa: MoA) -> bool:
    return (certainty := moa.certainty) is not None and certainty.threshold is not None


def _add(account: MoAMetadata, one: MoAMetadata, other: MoAMetadata) -> None:
    account.calls = [*one.calls, *other.calls]
    account.failures = [*one.failures, *other.failures]
    account.seconds = one.seconds + other.seconds


def _enter_failure(account: MoAMetadata, stage: MoA, error: BaseException) -> None:
    """The answer of the stage before stays, as the next one gave none; what was paid for it is in the account."""
    account.failures = [*account.failures, failure_of(stage.aggregator, error, 0.0)]
    if not isinstance(error, MoAError):
        message = f"A later stage could not be asked: {error}. What the earlier ones gave is in error.metadata."
        raise AggregationFailed(message, account) from error
    _add(account, account, error.metadata)


def _check_pair(number: int, stage: MoA, later: MoA) -> None:
    if not _has_threshold(stage):
        raise ValueError(
            f"Stage {number} has no threshold, so it would never be sure, or always. Calibrate it with a promise: "
            "Calibrate(max_error=0.1).compile(mixture, trainset=...)."
        )
    task, other = ([[*one.input_fields], [*one.output_fields]] for one in (stage.signature, later.signature))
    if task != other:
        raise ValueError(
            f"Stages {number} and {number + 1} have different tasks ({task} and {other}): the one could not stand in "
            "for the other. Give them one signature."
        )
    for name in set(stage.panels[0].names) & set(later.panels[0].names):
        model, other = (getattr(one.panels[0], name).model for one in (stage, later))
        if model != other:
            raise ValueError(
                f"In stages {number} and {number + 1}, {name} is {model} and {other}: what the one says would be taken "
                "for what the other says. Give one of them another name: Agent(model, name=...)."
            )
