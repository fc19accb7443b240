"""A logged mixture as MLflow runs it: rows in, answers out; or a chat."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import GenericAlias
from typing import Any

import dspy
import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel, ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent
from mlflow.types.schema import AnyType, Array, ColSpec, DataType, Object, ParamSchema, ParamSpec, Property, Schema

from moa_dspy.agent import check_keys
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.errors import MoAError
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.results import MoAMetadata
from moa_dspy.serving.conversation import answer_field, inputs_for, stream
from moa_dspy.tracking.autolog import autolog
from moa_dspy.tracking.store import describe
from moa_dspy.values import to_json, to_jsonable, validated

__all__ = ["PROGRAM", "MixtureAgent", "MixtureProgram", "ask_nobody", "signature_of"]

PROGRAM = "program"  # the artifact that holds the mixture

_asks_nobody: ContextVar[bool] = ContextVar("moa_dspy_asks_nobody", default=False)
_SCALARS: list[Any] = [(str, DataType.string), (int, DataType.long), (float, DataType.double), (bool, DataType.boolean)]
_COLUMNS: list[Any] = [*_SCALARS, *((GenericAlias(list, kind), Array(type_)) for kind, type_ in _SCALARS)]
_ACCOUNT = {
    "error": DataType.string,
    "agreement": DataType.double,
    "degraded": DataType.boolean,
    "cost_usd": DataType.double,
    "unpriced_calls": DataType.long,
    "seconds": DataType.double,
    "proposals": DataType.string,
}


class MixtureProgram(PythonModel):
    """Answers the rows of a table, side by side.

    Each row gives two objects, in its place. `outputs` holds the task's outputs; all are null if the row has no
    answer. `account` says why in `error` (null if there is an answer), and how it came about: `agreement`,
    `degraded`, `cost_usd` (of `unpriced_calls` it knows nothing), `seconds`, and who proposed what in `proposals`, as
    JSON. A row that fails, or is malformed, does not touch the others.
    """

    def __init__(self, **types: type) -> None:
        self.types = types  # classes of the user's own, by name

    def load_context(self, context: Any) -> None:
        self.moa = _load(context, self.types)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """The answers, under the input's index; `concurrency` among the params is how many rows are under way at once.

        Raises:
            ValueError: Before anything is asked, if a provider's key is missing in the environment.
        """
        concurrency = int((params or {}).get("concurrency", 8))
        require_positive(concurrency=concurrency)
        rows: Sequence[Mapping[str, Any]] = [] if _asks_nobody.get() else model_input.to_dict("records")
        if not rows:
            return pd.DataFrame(columns=["outputs", "account"])
        check_keys(self.moa.agents)
        answered = dict(run_side_by_side(lambda n: (n, self._answer(rows[n])), range(len(rows)), concurrency))
        return pd.DataFrame([answered[n] for n in range(len(rows))], index=model_input.index)

    def _answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        metadata: MoAMetadata | None = None
        fields = self.moa.signature.output_fields
        outputs, error = dict.fromkeys(fields), None
        try:
            # Nobody reads DSPy's trace of a batch, and it would keep all prompts in memory.
            with dspy.context(trace=None):
                prediction = self.moa(**_read_inputs(self.moa.signature, row))
            metadata = prediction.metadata
            outputs = {name: _as_cell(prediction[name], field.annotation) for name, field in fields.items()}
        except Exception as failed:
            metadata = failed.metadata if isinstance(failed, MoAError) else metadata
            error = describe(failed)
        return {"outputs": outputs, "account": _describe(metadata, error)}


class MixtureAgent(ResponsesAgent):
    """Answers a chat: the user's last message, with what was said before where the task has a place for it."""

    def load_context(self, context: Any) -> None:
        self.moa = _load(context)

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:  # type: ignore[override]
        if _asks_nobody.get():
            return ResponsesAgentResponse(output=[])
        prediction = self.moa(**self._read(request))
        item: Any = self.create_text_output_item(self._text(prediction), str(uuid.uuid4()))
        return ResponsesAgentResponse(output=[item], custom_outputs=_describe(prediction.metadata, None))

    def predict_stream(  # type: ignore[override]
        self, request: ResponsesAgentRequest
    ) -> Generator[ResponsesAgentStreamEvent, None, None]:
        id, was_written = str(uuid.uuid4()), False
        for piece in dspy.streaming.apply_sync_streaming(stream(self.moa, self._read(request))):
            if isinstance(piece, str):
                was_written = True
                yield ResponsesAgentStreamEvent(**self.create_text_delta(piece, id))
                continue
            text = self._text(piece)
            if not was_written:
                yield ResponsesAgentStreamEvent(**self.create_text_delta(text, id))
            # What the mixture answers, also where the stream broke and the vote decided.
            done: Any = {"type": "response.output_item.done", "item": self.create_text_output_item(text, id)}
            yield ResponsesAgentStreamEvent(**done, custom_outputs=_describe(piece.metadata, None))

    def _read(self, request: ResponsesAgentRequest) -> dict[str, Any]:
        return inputs_for(self.moa.signature, self.prep_msgs_for_cc_llm(request.input))

    def _text(self, prediction: Any) -> str:
        return str(prediction[answer_field(self.moa.signature)])


def signature_of(task: type[dspy.Signature]) -> ModelSignature:
    """A row's inputs, and what comes back for it: texts, numbers, truth values and lists of them; the rest as JSON."""
    anything: Any = AnyType
    inputs: list[Any] = []
    for name, field in task.input_fields.items():
        type_ = _column(field.annotation)
        is_needed = field.is_required() and type_ is not None
        inputs.append(ColSpec(anything() if type_ is None else type_, name, required=is_needed))
    # In two objects, where each value may be missing: in a column of its own, MLflow's Spark function
    # makes "None" or "nan" of a text that is missing, and False of a truth value.
    answer = {name: _column(field.annotation) or DataType.string for name, field in task.output_fields.items()}
    outputs: list[Any] = [
        ColSpec(Object([Property(part, type_, required=False) for part, type_ in types.items()]), name)
        for name, types in (("outputs", answer), ("account", _ACCOUNT))
    ]
    return ModelSignature(Schema(inputs), Schema(outputs), ParamSchema([ParamSpec("concurrency", DataType.long, 8)]))


@contextmanager
def ask_nobody() -> Iterator[None]:
    """Programs called meanwhile answer nothing: MLflow tries what it logs, which would cost money and need keys."""
    token = _asks_nobody.set(True)
    try:
        yield
    finally:
        _asks_nobody.reset(token)


def _load(context: Any, types: Mapping[str, type] | None = None) -> MoA:
    if os.environ.get("MOA_DSPY_AUTOLOG", "").lower() in ("1", "true") and not _asks_nobody.get():
        autolog()
    # Who runs a model runs the code in it: the addresses in it are trusted as much.
    return MoA.from_file(context.artifacts[PROGRAM], allow_unsafe_lm_state=True, custom_types=types)


def _read_inputs(task: type[dspy.Signature], row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row gives of the inputs, typed; what is null is left out."""
    given = {}
    for name, field in task.input_fields.items():
        value = to_jsonable(row.get(name))  # pandas has NaN where nothing is
        if value is not None:
            try:
                given[name] = validated(value, field.annotation)
            except ValueError:
                given[name] = validated(json.loads(value) if isinstance(value, str) else value, field.annotation)
    return given


def _as_cell(value: Any, annotation: Any) -> Any:
    data = to_jsonable(value)
    return data if _column(annotation) or data is None or isinstance(data, str) else to_json(data)


def _column(annotation: Any) -> DataType | Array | None:
    """MLflow's type; None for what is JSON."""
    return next((type_ for kind, type_ in _COLUMNS if kind == annotation), None)


def _describe(metadata: MoAMetadata | None, error: str | None) -> dict[str, Any]:
    """How a row was answered, or why not; what is not known is None."""
    if metadata is None:
        return {**dict.fromkeys(_ACCOUNT), "error": error}
    told = {**metadata.usage.model_dump(), **metadata.model_dump(include={"agreement", "degraded", "seconds"})}
    told["proposals"] = to_json({proposal.id: proposal.outputs for proposal in metadata.all_proposals})
    return {name: told.get(name, error) for name in _ACCOUNT}
