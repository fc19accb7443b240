"""How the aggregator is asked: within its context window, and once more if its reply is of no use."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import AdapterParseError, LMError, is_retryable_lm_error

from moa_dspy.models import context_window
from moa_dspy.outputs import IncompleteProposal, typed_outputs
from moa_dspy.plain import as_text
from moa_dspy.proposals import Proposal
from moa_dspy.sampling import Rollout, compose, resampled, rollout_of

__all__ = ["FAILED", "SHORTEST", "Repair", "Unusable", "fields_of", "inputs_for", "is_refining", "misfit", "room"]

SHORTEST = 400
"""Characters of proposals below which shortening them further is of no use."""


class Unusable(Exception):
    """The aggregator gave no usable answer, also when it was asked again."""


FAILED = (LMError, AdapterParseError, Unusable)
"""How the aggregator fails; anything else is a bug in a strategy."""


class Repair(BaseCallback):
    """The one repair that a question may have.

    Most of DSPy's adapters ask again in JSON by themselves if they cannot read a reply. That is the
    repair then, seen by its second LM call within one predictor call; else it is another rollout.
    """

    def __init__(self) -> None:
        super().__init__()
        self._adapter = dspy.settings.adapter or dspy.ChatAdapter()
        self._falls_back = _falls_back(self._adapter)
        self._asked_again = False
        self._surplus_calls = 0

    @property
    def is_made(self) -> bool:
        """Whether the question was asked again."""
        return self._asked_again or (self._falls_back and self._surplus_calls > 0)

    def helps(self, error: Exception) -> bool:
        """Whether to ask again after this error."""
        if self.is_made:
            return False
        if isinstance(error, AdapterParseError):
            # An adapter that could have asked again and did not has shown a part of the reply already.
            return not self._falls_back
        return isinstance(error, Unusable) or is_retryable_lm_error(error)

    def ask_again(self) -> None:
        """Make the next call the repair."""
        self._asked_again = True

    def settings(self, lap: int = 0) -> dict[str, Any]:
        """The DSPy settings of the next call.

        Args:
            lap: How often the very same prompt has been sent before on purpose.
        """
        settings: dict[str, Any] = {"callbacks": [*dspy.settings.get("callbacks", []), self]}
        rollout = 2 * lap + self._asked_again
        if rollout and dspy.settings.lm is not None:
            settings["lm"] = _another_rollout(dspy.settings.lm, rollout)
        if self.is_made and self._falls_back:
            settings["adapter"] = _without_fallback(self._adapter)
        return settings

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._surplus_calls -= isinstance(instance, dspy.Predict)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._surplus_calls += 1


def is_refining() -> bool:
    """Whether dspy.Refine hands out hints: it finds a predictor's hint by the very class of its signature."""
    return type(dspy.settings.adapter).__qualname__ == "Refine.forward.<locals>.WrapperAdapter"


def misfit(reply: dspy.Prediction, signature: type[dspy.Signature]) -> str | None:
    """What makes this reply to a wider signature no reply to this one; None if nothing does."""
    try:
        typed_outputs(reply, signature)
    except IncompleteProposal as error:
        return str(error)
    return None


def fields_of(predictor: dspy.Module) -> dict[str, Any]:
    """The fields of the prompts that a predictor, or a program of several, sends."""
    # A predictor would look for others in all that it holds, its history included.
    parts: list[Any] = [predictor] if isinstance(predictor, dspy.Predict) else predictor.predictors()
    return {name: field for part in parts for name, field in part.signature.fields.items()}


def inputs_for(predictor: dspy.Module, task: type[dspy.Signature], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The task's inputs as the predictor takes them: a conversation as text, if it wants text."""
    texts = {name for name, field in fields_of(predictor).items() if field.annotation is str}
    given = {name: inputs[name] for name in task.input_fields if name in inputs}
    return {
        name: _conversation(value) if isinstance(value, dspy.History) and name in texts else value
        for name, value in given.items()
    }


def room(inputs: Mapping[str, Any], proposals: Sequence[Proposal]) -> int | None:
    """How many characters of proposals the aggregator's context window has room for, if it is known."""
    size = sum(len(str(proposal.outputs)) + len(proposal.reasoning or "") for proposal in proposals)
    lm = dspy.settings.lm
    if lm is None or size < _ANSWER_TOKENS:
        return None
    window = context_window(lm.model)
    if window is None:
        return None
    answer = lm.kwargs.get("max_tokens") or lm.kwargs.get("max_completion_tokens") or _ANSWER_TOKENS
    characters = (window - min(answer, window // 2)) * _CHARACTERS_PER_TOKEN
    return max(SHORTEST, characters - sum(len(str(value)) for value in inputs.values()))


# English has about four characters a token; fewer are assumed, for code and for other languages.
_CHARACTERS_PER_TOKEN = 3
_ANSWER_TOKENS = 4096


def _falls_back(adapter: dspy.Adapter) -> bool:
    return not isinstance(adapter, dspy.JSONAdapter) and getattr(adapter, "use_json_adapter_fallback", False)


def _without_fallback(adapter: Any) -> Any:
    adapter = copy.copy(adapter)
    adapter.use_json_adapter_fallback = False
    return adapter


def _another_rollout(lm: dspy.BaseLM, number: int) -> dspy.BaseLM:
    # At temperature 0 it would give the same reply again.
    warmer = 1.0 if lm.kwargs.get("temperature") == 0 else None
    return resampled(lm, compose(rollout_of(lm), Rollout(number, warmer)))


def _conversation(history: dspy.History) -> str:
    turns = ["\n".join(f"{name}: {as_text(value)}" for name, value in turn.items()) for turn in history.messages]
    return "\n\n".join(turns) or "nothing yet"
