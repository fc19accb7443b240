"""The mixture as one predictor, where DSPy looks for the one that gives a field; and the stream of its answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import dspy
from dspy.streaming.streaming_listener import find_predictor_for_stream_listeners
from pydantic_core import from_json

from moa_dspy.agent import Agent, adopt_lms, find_modules
from moa_dspy.concurrency import in_anyio_worker
from moa_dspy.panel import Panel
from moa_dspy.values import as_text

if TYPE_CHECKING:
    from moa_dspy.moa import MoA
    from moa_dspy.results import MoAPrediction

__all__ = ["AnswerStream", "OnePredictor", "as_one_predictor"]


class AnswerStream:
    """Sends the answer of one call to the listeners of a mixture, field by field.

    What the aggregator writes word for word is sent as it writes it; what is chosen, counted or merged, what came from
    a cache and what is no text, at once when the answer is there. Stands where DSPy sends the aggregator's chunks.
    """

    def __init__(self, moa: MoA, listeners: list[Any]) -> None:
        self.stream = dspy.settings.send_stream
        self.fields = [_Field(listener, moa) for listener in listeners]

    @classmethod
    def of(cls, moa: MoA, *, awaited: bool) -> AnswerStream | None:
        """The stream of a call; None if nobody listens to the mixture, or a synchronous call cannot be streamed."""
        if dspy.settings.send_stream is None or not (awaited or in_anyio_worker()):
            return None
        listeners = [one for one in dspy.settings.stream_listeners or () if _stands_for(one.predict, moa)]
        return cls(moa, listeners) if listeners else None

    def settings(self) -> dict[str, Any]:
        """The DSPy settings under which the aggregator writes into this stream."""
        written = [field for field in self.fields if field.predict is not None]
        return {"send_stream": self, "stream_listeners": [*dspy.settings.stream_listeners, *written]}

    async def send(self, item: Any) -> None:
        """Take what DSPy sends, and pass it on: others may listen to the aggregator's predictors themselves."""
        for field in self.fields:
            if field.is_written_by(item) and (piece := field.read(item)):
                await self.stream.send(field.response(piece))
        await self.stream.send(item)

    def end(self, prediction: MoAPrediction) -> None:
        """Send what was not sent yet."""
        for field in self.fields:
            anyio.from_thread.run(self.stream.send, field.rest(prediction))

    async def aend(self, prediction: MoAPrediction) -> None:
        """Send what was not sent yet."""
        for field in self.fields:
            await self.stream.send(field.rest(prediction))


class _Field:
    """A field that somebody listens to: who writes it, and how much of it was sent."""

    def __init__(self, listener: Any, moa: MoA) -> None:
        self.listener = listener
        self.name = listener.signature_field_name
        self.predict = _writer(moa, self.name)
        self.sent = ""
        self._reply: list[str] = []
        self._length = self._read = 0  # of the reply, and of what was read of it
        self._heard = dspy.streaming.StreamListener(self.name, predict=self.predict)

    def is_written_by(self, item: Any) -> bool:
        """Whether an item of the stream is a chunk of the reply that holds this field."""
        return self.predict is not None and getattr(item, "predict_id", None) == id(self.predict)

    def read(self, chunk: Any) -> str:
        """The piece of the field that a chunk of the aggregator's reply brings."""
        if isinstance(dspy.settings.adapter, dspy.JSONAdapter):
            piece = self._read_json(chunk.choices[0].delta.content or "")
        else:
            heard = self._heard.receive(chunk)
            piece = "" if heard is None else heard.chunk
        self.sent += piece
        return piece

    def _read_json(self, text: str) -> str:
        # DSPy's listener would pass on quotes and escapes.
        self._reply.append(text)
        self._length += len(text)
        # All is read anew each time, so a long reply is read less often than it grows.
        if self._length - self._read < self._length // 256:
            return ""
        self._reply, self._read = ["".join(self._reply)], self._length
        with suppress(ValueError):
            reply = from_json(self._reply[0][max(0, self._reply[0].find("{")) :], allow_partial="trailing-strings")
            value = reply.get(self.name, "") if isinstance(reply, dict) else ""
            return value[len(self.sent) :] if isinstance(value, str) else ""
        return ""

    def rest(self, prediction: MoAPrediction) -> dspy.streaming.StreamResponse:
        """The last piece."""
        value = prediction.get(self.name) if self.name in prediction else getattr(prediction, self.name, None)
        text = "" if value is None else as_text(value)
        # As DSPy marks a listener that has heard its field.
        self.listener.stream_start = self.listener.stream_end = True
        return self.response(text[len(self.sent) :] if text.startswith(self.sent) else "", is_last=True)

    def response(self, piece: str, is_last: bool = False) -> dspy.streaming.StreamResponse:
        """A piece, as DSPy's listeners give it."""
        return dspy.streaming.StreamResponse(self.listener.predict_name, self.name, piece, is_last)


def _stands_for(predict: Any, moa: MoA) -> bool:
    return predict is moa or (isinstance(predict, OnePredictor) and predict.mixture is moa)


def _writer(moa: MoA, name: str) -> dspy.Predict | None:
    """The one predictor that writes this field as text, in a reply that DSPy knows how to take apart."""
    adapter = dspy.settings.adapter
    if not (adapter is None or isinstance(adapter, dspy.JSONAdapter) or type(adapter) in _LISTENED_TO):
        return None
    predictors: list[Any] = moa.strategy.predictors()
    writers = [p for p in predictors if name in p.signature.output_fields]
    is_text = len(writers) == 1 and writers[0].signature.output_fields[name].annotation is str
    return writers[0] if is_text else None


_LISTENED_TO = (dspy.ChatAdapter, dspy.XMLAdapter)


class OnePredictor(dspy.Predict):
    """Stands for a mixture; made when DSPy looks, never asked itself."""

    def __init__(self, mixture: MoA, lm: dspy.BaseLM | None = None) -> None:
        super().__init__(mixture.signature)
        self.mixture = mixture
        self.lm = lm


def as_one_predictor(moa: MoA) -> list[tuple[str, Any]] | None:
    """What of a mixture DSPy shall see that looks for one predictor, or for one LM; None if it looks for neither.

    `dspy.streamify` wants one predictor for each field that is listened to, `get_lm` one LM of all predictors. To
    every other caller a mixture shows all of its predictors, so what is shown hangs on who asks; DSPy says that by
    nothing but its call.
    """
    if _under_way(find_predictor_for_stream_listeners) is not None and not _gives_one_reply(moa):
        # What an aggregator gives beside the answer, its choice for one, may be listened to as well.
        judges: Any = moa.strategy.named_predictors()
        apart = [item for item in judges if moa.signature.output_fields.keys().isdisjoint(item[1].signature.fields)]
        return [("mixture", OnePredictor(moa)), *((f"aggregator.program.{name}", judge) for name, judge in apart)]
    if (frame := _under_way(dspy.Module.get_lm)) is not None:
        return [("mixture", OnePredictor(moa, _lm_beside(frame.f_locals["self"])))]
    return None


def _gives_one_reply(moa: MoA) -> bool:
    """Whether its answer is the one proposal there is: DSPy streams that by itself."""
    last = moa.panels[-1]
    return len(last.agents) * last.samples == 1 and not moa.strategy.predictors()


def _lm_beside(program: dspy.Module) -> dspy.BaseLM | None:
    """What a program with mixtures resamples: the LM of the predictors beside them, else of the first agent.

    The agents take no other LM from it: they sample their own again.
    """
    beside: list[Any] = [part for _, part in find_modules(program, Panel, Agent, dspy.Predict)]
    for predictor in beside:
        if isinstance(predictor, dspy.Predict):
            return predictor.lm
    agents: list[Any] = [agent for _, agent in find_modules(program, Agent)]
    adopt_lms(agents)
    return next((agent.lm for agent in agents if agent.lm is not None), None)


def _under_way(function: Callable[..., Any]) -> FrameType | None:
    """The call of this function that led here, if one did."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame
