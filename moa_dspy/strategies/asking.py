"""How an aggregator is asked: within its context window, and once more if its reply is of no use."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dspy
from dspy.utils.exceptions import (
    AdapterParseError,
    ContextWindowExceededError,
    LMError,
    LMProviderError,
    LMUnexpectedError,
    is_retryable_lm_error,
)

from moa_dspy import values
from moa_dspy.concurrency import Batch, Call, Steps
from moa_dspy.meter import METER, watch_lm
from moa_dspy.rendering import SHORTEST, Rendering, escape_inputs, limit_for, render, seed_of
from moa_dspy.results import Proposal
from moa_dspy.rollouts import ask_again
from moa_dspy.signatures import PROPOSALS
from moa_dspy.strategies.equality import is_refusal
from moa_dspy.values import IncompleteProposal, as_text, check_showable, refuse_nulls, typed_outputs

if TYPE_CHECKING:
    from moa_dspy.strategies.base import Case, Strategy

__all__ = ["FAILED", "AggregatorTimeout", "Reply", "Unusable", "ask_aggregator", "fields_of"]

Narrow = Callable[[Rendering], type[dspy.Signature]]
Complaint = Callable[[dspy.Prediction, Rendering], str | None]


class Unusable(Exception):
    """The aggregator gave no usable answer, also when it was asked again."""


class AggregatorTimeout(Unusable):
    """The aggregator did not answer in time."""


FAILED = (LMError, AdapterParseError, Unusable)
"""How the aggregator fails; anything else is a bug in a strategy."""


@dataclass(frozen=True)
class Reply:
    """The aggregator's reply, what it was shown, and whether it had to be asked again."""

    prediction: dspy.Prediction
    shown: Rendering
    repaired: bool

    @property
    def told(self) -> dict[str, Any]:
        """What a `Verdict` tells of how it was asked for."""
        return {"order_shown": self.shown.order, "shortened": self.shown.shortened, "repaired": self.repaired}

    def chosen(self, name: str) -> list[Proposal]:
        """The proposals behind the label in a field of the reply."""
        return self.shown.labels[self.prediction[name]]


def ask_aggregator(
    _strategy: Strategy,
    predictor: dspy.Module,
    case: Case,
    *,
    extra: Mapping[str, Any] | None = None,
    narrow: Narrow | None = None,
    complaint: Complaint | None = None,
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
    given = {**escape_inputs(_inputs_for(predictor, case)), **(extra or {})}
    limit = limit_for(dspy.settings.lm, given, case.proposals)
    names = (*values.fields_of(case.task), *fields_of(predictor))
    repair = _Repair()
    while True:
        shown = render(case.proposals, seed=seed_of(case.inputs), rotation=rotation, limit=limit, field_names=names)
        call: dict[str, Any] = {**given, PROPOSALS: shown.text}
        narrowed = narrow(shown) if narrow else None
        if narrowed is not None and not _adapter_knows_signatures():
            call["signature"], narrowed = narrowed, None
        # Once all have stood in each place, the same prompt is sent again: another rollout then.
        lap = rotation // len(shown.labels)
        settings = repair.settings(lap)
        [outcome] = yield Batch([Call(predictor, call, settings)])
        error: Any = outcome.error
        if error is None:
            wrong = _find_flaw(outcome.value, settings.get("lm"), case, narrowed)
            wrong = wrong or (complaint(outcome.value, shown) if complaint else None)
            if wrong is None:
                return Reply(outcome.value, shown, repair.is_made)
            error = Unusable(wrong)
        shorter = min(limit or len(shown.text), len(shown.text)) // 2
        if isinstance(error, ContextWindowExceededError) and shorter >= SHORTEST:
            limit = shorter
        elif repair.helps(error):
            repair.asked_again = True
        else:
            raise error


def fields_of(predictor: dspy.Module) -> dict[str, Any]:
    """The fields of the prompts that a predictor, or a program of several, sends."""
    # A predictor would look for others in all that it holds, its history included.
    predictors: list[Any] = [predictor] if isinstance(predictor, dspy.Predict) else predictor.predictors()
    return {name: field for one in predictors for name, field in values.fields_of(one.signature).items()}


_UNREADABLE = (LMProviderError, LMUnexpectedError)


class _Repair:
    """The one repair that a question may have.

    Most of DSPy's adapters ask again in JSON by themselves if they cannot read a reply. That is the
    repair then, seen by its second LM call for one asking; else it is another rollout.
    """

    def __init__(self) -> None:
        self._adapter = dspy.settings.adapter or dspy.ChatAdapter()
        self._falls_back = not isinstance(self._adapter, dspy.JSONAdapter) and bool(
            getattr(self._adapter, "use_json_adapter_fallback", False)
        )
        self.asked_again = False  # set, it makes the next call the repair
        self._askings: list[Any] = []

    @property
    def is_made(self) -> bool:
        """Whether the question was asked again."""
        return self.asked_again or (self._falls_back and any(lm.asked > 1 for lm in self._askings))

    def helps(self, error: Exception) -> bool:
        """Whether to ask again after this error."""
        if self.is_made:
            return False
        if isinstance(error, AdapterParseError):
            # An adapter that could have asked again and did not has shown a part of the reply already.
            return not self._falls_back
        # Retries that were used up are enough: a dead model would be asked as often again. A body that could not be
        # read is a provider's hiccup as well, whatever a backend calls it.
        is_passing = is_retryable_lm_error(error) and not any(lm.tries for lm in self._askings)
        return isinstance(error, Unusable) or is_passing or type(error) in _UNREADABLE

    def settings(self, lap: int) -> dict[str, Any]:
        """The DSPy settings of the next call.

        Args:
            lap: How often the very same prompt has been sent before on purpose.
        """
        settings: dict[str, Any] = {}
        lm, rollout = dspy.settings.lm, 2 * lap + self.asked_again
        if lm is not None:
            meter = dspy.settings.get(METER)
            meter = None if meter is None or meter.everywhere else meter
            self._askings.append(watch_lm(ask_again(lm, rollout) if rollout else lm, meter))
            settings["lm"] = self._askings[-1]
        if self.is_made and self._falls_back:
            settings["adapter"] = copy.copy(self._adapter)
            settings["adapter"].use_json_adapter_fallback = False
        return settings


def _adapter_knows_signatures() -> bool:
    """Whether the adapter was made on the fly, as dspy.Refine's is: it hands out hints by the very signature class."""
    return "<locals>" in type(dspy.settings.adapter).__qualname__


def _find_flaw(reply: dspy.Prediction, lm: Any, case: Case, narrowed: type[dspy.Signature] | None) -> str | None:
    """What makes a reply that could be read no answer, or none to the narrowed signature; None if nothing does."""
    if lm is not None and lm.cut is not None:
        return f"The reply is not whole: it was ended by {lm.cut}."
    outputs = {name: reply[name] for name in values.outputs_of(case.task) if name in reply}
    for name, value in outputs.items():
        if is_refusal(value) and not any(is_refusal(proposal.outputs.get(name)) for proposal in case.proposals):
            return f"The aggregator refuses what no proposer refused: {value:.200}"
    try:
        refuse_nulls(outputs, case.task, None if lm is None else lm.said)
        check_showable(outputs)
        if narrowed is not None:
            typed_outputs(reply, narrowed)
    except IncompleteProposal as error:
        return str(error)
    return None


def _inputs_for(predictor: dspy.Module, case: Case) -> dict[str, Any]:
    """The task's inputs as the predictor takes them: a conversation as text, if it wants text."""
    given = {name: case.inputs[name] for name in values.inputs_of(case.task) if name in case.inputs}
    if not any(isinstance(value, dspy.History) for value in given.values()):
        return given
    texts = {name for name, field in fields_of(predictor).items() if field.annotation is str}
    return {
        name: _conversation(value) if isinstance(value, dspy.History) and name in texts else value
        for name, value in given.items()
    }


def _conversation(history: dspy.History) -> str:
    turns = ["\n".join(f"{name}: {as_text(value)}" for name, value in turn.items()) for turn in history.messages]
    return "\n\n".join(turns) or "nothing yet"
