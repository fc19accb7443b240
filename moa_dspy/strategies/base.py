"""The contract of a strategy, and how a strategy asks the aggregator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import dspy
from dspy.adapters.json_adapter import JSONAdapter
from dspy.utils.exceptions import AdapterParseError, ContextWindowExceededError, is_retryable_lm_error

from moa_dspy.ballots import Tally
from moa_dspy.metadata import Element
from moa_dspy.models import context_window
from moa_dspy.proposals import Exhibit, Proposal, exhibit, seed_of
from moa_dspy.running import Batch, Call, Steps, adrive, drive
from moa_dspy.sampling import Rollout, compose, resampled, rollout_of
from moa_dspy.signatures import PROPOSALS

__all__ = ["Case", "Reply", "Strategy", "Unusable", "Verdict"]


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
    """

    outputs: Mapping[str, Any]
    selected: str | None = None
    tally: Tally | None = None
    order_shown: Sequence[str] = ()
    shortened: Mapping[str, int] = field(default_factory=dict)
    elements: Sequence[Element] = ()
    flip_rate: float | None = None
    repaired: bool = False


class Unusable(Exception):
    """The aggregator gave no usable answer, also when it was asked again."""


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

        Args:
            case: What has come so far; `asked` names those that have finished.
            pending: Proposal id -> agent, of those still under way.
        """
        return False

    def forward(self, case: Case) -> Verdict:
        decision = self.decide(case)
        return decision if isinstance(decision, Verdict) else drive(decision)

    async def aforward(self, case: Case) -> Verdict:
        decision = self.decide(case)
        return decision if isinstance(decision, Verdict) else await adrive(decision)

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

        An unusable reply is asked for once more, as another rollout, past the cache. A prompt that the
        model refuses as too long is halved; a refusal is not billed.

        Args:
            predictor: What asks.
            case: The inputs and the proposals.
            extra: Further inputs of the predictor.
            narrow: Gives the predictor's signature for the labels shown.
            complaint: Says what is wrong with a reply; None if nothing is.
            rotation: By how many places the order shown is turned.

        Raises:
            Unusable: If the second reply is unusable too; the `LMError` if the model cannot be asked.
        """
        inputs = {name: case.inputs[name] for name in case.task.input_fields if name in case.inputs}
        limit = _room(inputs, case.proposals)
        repaired = False
        while True:
            shown = exhibit(
                case.proposals,
                seed=seed_of(case.inputs),
                rotation=rotation,
                limit=limit,
                field_names=[PROPOSALS, *case.task.fields],
            )
            given = {**inputs, **(extra or {}), PROPOSALS: shown.text}
            if narrow is not None:
                given["signature"] = narrow(shown)
            [outcome] = yield Batch([Call(predictor, given, settings=_another_rollout() if repaired else {})])
            error = outcome.error
            if error is None:
                wrong = complaint(outcome.value, shown) if complaint else None
                if wrong is None:
                    return Reply(outcome.value, shown, repaired)
                error = Unusable(wrong)
            elif isinstance(error, ContextWindowExceededError) and len(shown.text) > _SHORTEST:
                limit = len(shown.text) // 2
                continue
            if repaired or not _worth_another_try(error):
                raise error
            repaired = True


# English has about four characters a token; fewer are assumed, for code and for other languages.
_CHARACTERS_PER_TOKEN = 3
_ANSWER_TOKENS = 4096
_SHORTEST = 400


def _room(inputs: Mapping[str, Any], proposals: Sequence[Proposal]) -> int | None:
    """How many characters of proposals the aggregator's context window has room for, if it is known."""
    size = sum(len(str(proposal.outputs)) + len(proposal.reasoning or "") for proposal in proposals)
    lm = dspy.settings.lm
    if lm is None or size < _ANSWER_TOKENS:
        return None
    window = context_window(lm.model)
    if window is None:
        return None
    answer = lm.kwargs.get("max_tokens") or lm.kwargs.get("max_completion_tokens") or _ANSWER_TOKENS
    return max(_SHORTEST, (window - answer) * _CHARACTERS_PER_TOKEN - sum(len(str(value)) for value in inputs.values()))


def _another_rollout() -> dict[str, Any]:
    lm = dspy.settings.lm
    return {"lm": resampled(lm, compose(rollout_of(lm), Rollout(1)))}


def _worth_another_try(error: BaseException) -> bool:
    if isinstance(error, AdapterParseError):
        # Most adapters have asked again in JSON by themselves: that was the second try.
        adapter = dspy.settings.adapter or dspy.ChatAdapter()
        return isinstance(adapter, JSONAdapter) or not getattr(adapter, "use_json_adapter_fallback", False)
    return isinstance(error, Unusable) or is_retryable_lm_error(error)
