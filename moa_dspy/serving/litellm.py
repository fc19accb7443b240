"""Mixtures as models of LiteLLM: `moa/NAME`, in a program or behind LiteLLM's proxy."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import dspy
import litellm
from dspy.utils.exceptions import ContextWindowExceededError, DSPyError
from litellm import exceptions
from litellm.llms.custom_llm import CustomLLM
from litellm.types.utils import Choices, GenericStreamingChunk, Message, ModelResponse, Usage

from moa_dspy.agent import check_keys
from moa_dspy.config import MoAConfig
from moa_dspy.errors import MoAError
from moa_dspy.limits import bound
from moa_dspy.moa import MoA
from moa_dspy.models import as_lm
from moa_dspy.results import MoAMetadata, MoAPrediction
from moa_dspy.serving.conversation import Chat, inputs_for, message_field, stream
from moa_dspy.serving.forms import Calls, Cut, answer_type, calls_of, tools_of
from moa_dspy.values import to_json

__all__ = ["PROVIDER", "MixtureLLM", "check_name"]

PROVIDER = "moa"


class MixtureLLM(CustomLLM):
    """Mixtures as models of LiteLLM.

    A config without a signature answers the conversation; one with a signature gets the conversation as its one input
    and answers as it says, in JSON unless that is one text.

    Args:
        mixtures: NAME -> the file of a config, or of a mixture that `MoA.save` wrote.
        limits: What an answer may take, where that is not what the files say, as in `Limits`.

    Raises:
        ValueError: If a file holds no mixture that can answer a conversation, a key is missing, or LiteLLM knows a
            name already: it would ask that model instead.

    Examples:
        ```python
        handler = MixtureLLM({"team": "moa.yaml"})
        litellm.custom_provider_map = [{"provider": "moa", "custom_handler": handler}]
        litellm.completion("moa/team", [{"role": "user", "content": "Why is the sky blue?"}])
        ```
    """

    def __init__(self, mixtures: Mapping[str, str | Path], limits: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.served = {check_name(name): _Served(Path(path), limits or {}) for name, path in mixtures.items()}

    def completion(self, *_: Any, **call: Any) -> ModelResponse:
        with _as_litellm_errors(call["model"]):
            asked = self._read(**call)
            return asked.response(asked.moa(**asked.inputs))

    async def acompletion(self, *_: Any, **call: Any) -> ModelResponse:
        with _as_litellm_errors(call["model"]):
            asked = self._read(**call)
            return asked.response(await asked.moa.acall(**asked.inputs))

    def streaming(self, *_: Any, **call: Any) -> Iterator[GenericStreamingChunk]:
        return dspy.streaming.apply_sync_streaming(self.astreaming(**call))

    def astreaming(self, *_: Any, **call: Any) -> AsyncIterator[GenericStreamingChunk]:  # type: ignore[override]
        with _as_litellm_errors(call["model"]):
            return self._read(**call).stream()

    def _read(self, model: str, messages: list[Any], optional_params: Mapping[str, Any], **_: Any) -> _Asked:
        name = model.removeprefix(f"{PROVIDER}/")
        if name not in self.served:
            raise exceptions.NotFoundError(
                f"There is no moa/{name} here. There is: {', '.join(self.served)}.", model, PROVIDER
            )
        return _Asked(f"{PROVIDER}/{name}", self.served[name], messages, optional_params)


class _Served:
    """A mixture in a file, and what requests make of it: another form of answer, tools, options of its writer."""

    def __init__(self, path: Path, limits: Mapping[str, Any]) -> None:
        self.path, self.limits = path, limits
        self.is_chat = MoAConfig.load(path).signature is None
        self.vary = lru_cache(maxsize=64)(self._vary)
        moa = self.vary()
        message_field(moa.signature)
        check_keys(moa.agents)

    def _vary(
        self, schema: str | None = None, calls: Calls | None = None, has_images: bool = False, options: str = "{}"
    ) -> MoA:
        task: Any = Chat if self.is_chat else None
        if schema is not None:
            task = task.with_updated_fields("answer", type_=answer_type(json.loads(schema)))
        if has_images and self.is_chat:
            task = task.append("images", dspy.InputField(), type_=list[dspy.Image])
        if calls is not None:
            task = task.append("tools", dspy.InputField(default=[]), type_=list[dspy.Tool])
            task = task.append("tool_calls", dspy.OutputField(desc=calls.desc), type_=calls.type())
        moa = MoA.from_config(task, self.path)
        bound(moa, self.limits)
        if chosen := json.loads(options):
            writers = [moa.aggregator] if moa.aggregator.lm is not None else moa.panels[-1].agents
            for agent in writers:
                agent.lm = None if agent.lm is None else as_lm(agent.lm, **chosen)
        return moa


class _Asked:
    """One request: what the mixture is asked, and its answer as the client wants it."""

    def __init__(self, model: str, served: _Served, messages: Sequence[Any], params: Mapping[str, Any]) -> None:
        given = {name: value for name, value in params.items() if value is not None and name not in _IGNORED}
        if given.get("n") == 1:
            del given["n"]
        self.model = model
        stops, most = given.pop("stop", []), min(filter(None, map(given.pop, _MOST, (None, None))), default=None)
        self.cut = Cut([stop for stop in ([stops] if isinstance(stops, str) else stops) if stop], most)
        tools, calls = tools_of(given)
        form, schema = given.pop("response_format", {"type": "text"}), None
        if form["type"] != "text":
            schema = json.dumps(form["json_schema"]["schema"] if form["type"] == "json_schema" else {"type": "object"})
        parts = [part for one in messages for part in one.get("content") or () if isinstance(part, dict)]
        options = {name: given.pop(name) for name in _WRITERS if name in given}
        if not served.is_chat:
            given |= {name: value for name, value in (("tools", tools), ("response_format", schema)) if value}
        if given:
            raise ValueError(
                f"{model} does not know what to do with {', '.join(given)}. It takes "
                f"{', '.join((*_MOST, 'stop', *_WRITERS))}; and tools, tool_choice and response_format, unless its "
                "config has a signature, which says them."
            )
        has_images = any(part.get("type") == "image_url" for part in parts)
        self.moa = served.vary(schema, calls, has_images, json.dumps(options, sort_keys=True))
        self.inputs = inputs_for(self.moa.signature, messages)
        if tools:
            self.inputs["tools"] = tools

    def response(self, prediction: MoAPrediction) -> ModelResponse:
        """The whole answer."""
        calls, metadata = calls_of(prediction), prediction.metadata
        message = Message(
            content=self.cut.take(self._text(prediction), is_last=True) or None,
            tool_calls=calls or None,
            provider_specific_fields={"moa": _account(metadata)},
        )
        response = ModelResponse(
            model=self.model,
            choices=[Choices(message=message, finish_reason=self._reason(calls))],
            usage=Usage(**_usage(metadata)),
        )
        response._hidden_params["response_cost"] = metadata.usage.cost_usd
        return response

    async def stream(self) -> AsyncGenerator[GenericStreamingChunk, None]:
        """The answer as it is written, then the account."""
        with _as_litellm_errors(self.model):
            async with aclosing(stream(self.moa, self.inputs)) as pieces:
                async for piece in pieces:
                    if isinstance(piece, MoAPrediction):
                        for chunk in self._end(piece):
                            yield chunk
                    elif text := self.cut.take(piece):
                        yield _chunk(text)

    def _end(self, prediction: MoAPrediction) -> Iterator[GenericStreamingChunk]:
        """What is not sent yet, and the account.

        Raises:
            exceptions.APIError: If what was sent is not what the answer is: the stream broke, and the vote decided.
        """
        text = self._text(prediction)
        if self.cut.heard and self.cut.heard.split() != text.split():
            raise exceptions.APIError(
                502, f"The stream broke; what the mixture answers is: {text}", PROVIDER, self.model
            )
        if rest := self.cut.take("" if self.cut.heard else text, is_last=True):
            yield _chunk(rest)
        calls = calls_of(prediction)
        for call in calls:
            yield {**_chunk(""), "tool_use": call}
        yield {
            **_chunk("", self._reason(calls)),
            "usage": _usage(prediction.metadata),
            "provider_specific_fields": {"moa": _account(prediction.metadata)},
        }

    def _text(self, prediction: MoAPrediction) -> str:
        outputs = {name: value for name, value in prediction.items() if name != "tool_calls"}
        if len(outputs) > 1:
            return to_json(outputs)
        [value] = outputs.values()
        return value if isinstance(value, str) else to_json(value)

    def _reason(self, calls: Sequence[Any]) -> str:
        return "tool_calls" if calls else "length" if self.cut.is_short else "stop"


def check_name(name: str) -> str:
    """The name, unchanged.

    Raises:
        ValueError: If LiteLLM would ask another model of this name, or put that model's price to it.
    """
    known = {model.rpartition("/")[2] for model in litellm.model_list} | {*litellm.model_cost}
    if name in known or re.search("replicate|clarifai|^ft:", name):
        raise ValueError(
            f"LiteLLM knows a model {name!r} and would ask that one instead. Give another name: NAME=FILE."
        )
    if not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(
            f"{name!r} is no name for a model: letters, digits, '.', '-' and '_' make one. Give NAME=FILE."
        )
    return name


@contextmanager
def _as_litellm_errors(model: str) -> Iterator[None]:
    """Errors as LiteLLM knows them, with the status of what caused them and what was paid for."""
    try:
        yield
    except ValueError as error:
        # Without a provider's name it is the client's mistake to LiteLLM, and worth no traceback in its log.
        raise exceptions.BadRequestError(str(error), model, "") from error
    except DSPyError as error:
        failures = error.failures if isinstance(error, MoAError) else []
        spent = f" Spent: {to_json(_usage(error.metadata))}" if isinstance(error, MoAError) else ""
        told: dict[str, Any] = {"message": f"{error}{spent}", "model": model, "llm_provider": PROVIDER}
        if isinstance(error, ContextWindowExceededError):
            raise exceptions.ContextWindowExceededError(**told) from error
        is_late = any(failure.error in ("LMTimeoutError", "ProposerTimeout") for failure in failures)
        status = error.status or (408 if is_late else 500)
        raise _ERRORS.get(status, partial(exceptions.APIError, status))(**told) from error


_ERRORS: dict[int, Any] = {
    400: exceptions.BadRequestError,
    401: exceptions.AuthenticationError,
    404: exceptions.NotFoundError,
    408: exceptions.Timeout,
    429: exceptions.RateLimitError,
    503: exceptions.ServiceUnavailableError,
}
_MOST = ("max_tokens", "max_completion_tokens")
# For who writes the answer: the aggregator, or without one the proposers.
_WRITERS = ("temperature", "top_p", "seed", "presence_penalty", "frequency_penalty", "reasoning_effort")
_IGNORED = frozenset({"max_retries", "metadata", "stream", "stream_options", "user"})


def _chunk(text: str, reason: str = "") -> GenericStreamingChunk:
    return {"text": text, "is_finished": bool(reason), "finish_reason": reason, "usage": None, "index": 0}


def _usage(metadata: MoAMetadata) -> Any:
    """The whole mixture's; LiteLLM takes the cost of a stream from here."""
    usage = metadata.usage
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        **({} if usage.cost_usd is None else {"cost": usage.cost_usd}),
    }


def _account(metadata: MoAMetadata) -> dict[str, Any]:
    """How the answer came about."""
    proposed = [
        {"id": one.id, "agent": one.agent, "model": one.model, "status": "proposed", "answer": one.outputs}
        for one in metadata.all_proposals
    ]
    failed = [{"id": one.id, "agent": one.agent, "model": one.model, "status": one.error} for one in metadata.failures]
    names = {"strategy", "answered_by", "agreement", "degraded", "seconds"}
    account = {**metadata.model_dump(mode="json", include=names), "usage": metadata.usage.model_dump()}
    return json.loads(to_json({**account, "panel": [*proposed, *failed]}))
