"""The contract of a strategy: what it decides on, what it decides, and how it asks the aggregator."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import dspy

from moa_dspy.concurrency import Steps, adrive, drive
from moa_dspy.results import Element, Proposal
from moa_dspy.strategies.asking import ask_aggregator

if TYPE_CHECKING:
    from moa_dspy.strategies.counting import Tally

__all__ = ["Case", "Strategy", "Verdict"]


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
        scores: Proposal id -> what verifiers gave it.
        errors: What failed on the way; they are told in `MoAMetadata.failures`.
        reasoning: How the aggregator came to it: `reasoning` of the prediction.
    """

    outputs: Mapping[str, Any]
    selected: str | None = None
    tally: Tally | None = None
    order_shown: Sequence[str] = ()
    shortened: Mapping[str, int] = field(default_factory=dict)
    elements: Sequence[Element] = ()
    flip_rate: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    repaired: bool = False
    errors: Sequence[Exception] = ()
    reasoning: str | None = None


class Strategy(dspy.Module):
    """Makes one answer of proposals.

    Write your own: build predictors in `bind`, decide in `decide`. `decide` is a generator, so that
    one logic serves sync and async: `yield from self.ask(...)` asks the aggregator. One that asks
    nobody just returns its verdict.

    Attributes:
        name: By which it is reported.
        needs_aggregator: Whether there must be an LM to ask.
        early_stop: Whether `is_decided` is asked as proposals come in.
        has_aggregator: Set before `bind`: whether the mixture has an LM to ask. A predictor that would never
            be asked shall not be built: an optimizer would tune it.
        asks_one_lm: Whether all LM calls are made with `ask`, of DSPy's own predictors; metering them is cheaper.

    Examples:
        ```python
        class Longest(Strategy):
            name = "longest"

            def decide(self, case):
                best = max(case.proposals, key=lambda proposal: len(proposal.outputs["answer"]))
                return Verdict(best.outputs, selected=best.id)
        ```
    """

    name: ClassVar[str]
    needs_aggregator: bool = False
    asks_one_lm: bool = False
    early_stop: bool = False
    has_aggregator: bool = True

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

    ask = ask_aggregator
