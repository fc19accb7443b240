"""The contract of a strategy, and how a strategy asks the aggregator."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import dspy
from dspy.utils.exceptions import ContextWindowExceededError

from moa_dspy.metadata import Element
from moa_dspy.proposals import Exhibit, Proposal, exhibit, seed_of
from moa_dspy.running import Batch, Call, Steps, adrive, drive
from moa_dspy.signatures import PROPOSALS
from moa_dspy.strategies.asking import (
    FAILED,
    SHORTEST,
    Repair,
    Unusable,
    fields_of,
    inputs_for,
    is_refining,
    misfit,
    room,
)
from moa_dspy.strategies.counting import Tally

__all__ = ["FAILED", "Case", "Reply", "Strategy", "Unusable", "Verdict"]


@dataclass(frozen=True)
class Case:
    """What a strategy decides on.

    Attributes:
        task: The task's signature.
        inputs: The task's inputs.
        proposals: Those that came back, in declared order; at least one.
        asked: Proposal id -> agent, for all that were asked for, in declared order: who is missing abstains.
        has_aggregator: Whether there is an LM to ask.
    """

    task: type[dspy.Signature]
    inputs: Mapping[str, Any]
    proposals: Sequence[Proposal]
    asked: Mapping[str, str]
    has_aggregator: bool = True

    def proposal(self, id: str) -> Proposal:
        """The proposal of this id."""
        return next(proposal for proposal in self.proposals if proposal.id == id)


@dataclass(frozen=True)
class Verdict:
    """What a strategy decided; what stands beside the outputs goes into `MoAMetadata` as it is.

    Attributes:
        outputs: The answer: the task's output fields, typed.
        tally: The count, where the strategy counted.
        errors: What failed on the way; they are told in `MoAMetadata.failures`.
    """

    outputs: Mapping[str, Any]
    selected: str | None = None
    tally: Tally | None = None
    order_shown: Sequence[str] = ()
    shortened: Mapping[str, int] = field(default_factory=dict)
    elements: Sequence[Element] = ()
    flip_rate: float | None = None
    repaired: bool = False
    errors: Sequence[Exception] = ()


@dataclass(frozen=True)
class Reply:
    """The aggregator's reply, what it was shown, and whether it had to be asked again."""

    prediction: dspy.Prediction
    shown: Exhibit
    repaired: bool


class Strategy(dspy.Module):
    """Makes one answer of proposals.

    Write your own: build predictors in `bind`, decide in `decide`. `decide` is a generator, so that
    one logic serves sync and async: `yield from self.ask(...)` asks the aggregator. One that asks
    nobody just returns its verdict.

    Example:
        ```python
        class Longest(Strategy):
            name = "longest"

            def decide(self, case):
                best = max(case.proposals, key=lambda proposal: len(proposal.outputs["answer"]))
                return Verdict(best.outputs, selected=best.id)
        ```
    """

    name: ClassVar[str]
    needs_aggregator: ClassVar[bool] = False
    early_stop: bool = False

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        """Build the predictors for a task.

        Args:
            task: The task's signature.
            agents: The names of the agents that will propose.

        Raises:
            ValueError: If the task or the agents do not suit the strategy's settings.
        """

    def decide(self, case: Case) -> Steps[Verdict] | Verdict:
        """Make the answer.

        Raises:
            Unusable: If the aggregator gave no usable answer; its `LMError` if it could not be asked.
        """
        raise NotImplementedError

    def is_decided(self, case: Case, pending: Mapping[str, str]) -> bool:
        """Whether the proposals in `case` decide already, whatever those still under way will say.

        Asked as proposals come in, if `early_stop` is true; those under way are then cancelled or abandoned.

        Args:
            case: What has come so far; `asked` names those that have finished.
            pending: Proposal id -> agent, of those still under way.
        """
        return False

    def forward(self, case: Case) -> Verdict:
        decision = self.decide(case)
        return drive(decision) if isinstance(decision, Generator) else decision

    async def aforward(self, case: Case) -> Verdict:
        decision = self.decide(case)
        return await adrive(decision) if isinstance(decision, Generator) else decision

    def ask(
        self,
        predictor: dspy.Module,
        case: Case,
        *,
        extra: Mapping[str, Any] | None = None,
        narrow: Callable[[Exhibit], type[dspy.Signature]] | None = None,
        complaint: Callable[[dspy.Prediction, Exhibit], str | None] | None = None,
        rotation: int = 0,
    ) -> Steps[Reply]:
        """Show the proposals to the aggregator and ask it.

        An unusable reply is asked for once more, past the cache. A prompt that the model refuses as too
        long is halved; a refusal is not billed.

        Args:
            predictor: What asks.
            case: The inputs and the proposals.
            extra: Further inputs of the predictor.
            narrow: Gives the predictor's signature for the labels shown.
            complaint: Says what is wrong with a reply; None if nothing is.
            rotation: By how many places the order shown is turned; once it is round, as another rollout.

        Raises:
            Unusable: If the second reply is unusable too; the `LMError` if the model cannot be asked.
        """
        inputs = {**inputs_for(predictor, case.task, case.inputs), **(extra or {})}
        limit = room(inputs, case.proposals)
        repair = Repair()
        while True:
            shown = exhibit(
                case.proposals,
                seed=seed_of(case.inputs),
                rotation=rotation,
                limit=limit,
                field_names=[*case.task.fields, *fields_of(predictor)],
            )
            given: dict[str, Any] = {**inputs, PROPOSALS: shown.text}
            narrowed = narrow(shown) if narrow else None
            if narrowed is not None and not is_refining():
                given["signature"] = narrowed
            settings = repair.settings(lap=rotation // len(shown.labels))
            [outcome] = yield Batch([Call(predictor, given, settings=settings)])
            error: Any = outcome.error
            if error is None:
                wrong = misfit(outcome.value, narrowed) if narrowed and is_refining() else None
                wrong = wrong or (complaint(outcome.value, shown) if complaint else None)
                if wrong is None:
                    return Reply(outcome.value, shown, repair.is_made)
                error = Unusable(wrong)
            shorter = min(limit or len(shown.text), len(shown.text)) // 2
            if isinstance(error, ContextWindowExceededError) and shorter >= SHORTEST:
                limit = shorter
            elif repair.helps(error):
                repair.ask_again()
            else:
                raise error
