"""A logged mixture as MLflow runs it: rows in, answers out; or a chat."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
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
from moa_dspy.secrets import redact
from moa_dspy.values import check_inputs, to_json, to_jsonable, validated

__all__ = ["PROGRAM", "Columns", "MixtureAgent", "MixtureProgram", "ask_nobody", "check_chat"]

PROGRAM = "program"

_asks_nobody: ContextVar[bool] = ContextVar("moa_dspy_asks_nobody", default=False)
_OUTPUTS, _ACCOUNT, _CONCURRENCY = "outputs", "account", "concurrency"
_SCALARS = {str: DataType.string, int: DataType.long, float: DataType.double, bool: DataType.boolean}
_OF_AN_ANSWER = {
    "error": DataType.string,
    "agreement": DataType.double,
    "degraded": DataType.boolean,
    "cost_usd": DataType.double,
    "unpriced_calls": DataType.long,
    "seconds": DataType.double,
    "proposals": DataType.string,
}


class Columns:
    """The columns of a task: texts, numbers, truth values and lists of them; any other type as JSON.

    Example:
        >>> Columns(dspy.Signature("question, year: int -> answer: float, sources: list[str]")).signature.inputs
        ['question': string (required), 'year': long (required)]
    """

    def __init__(self, task: type[dspy.Signature]) -> None:
        self.task = task
        self._outputs = {name: _column(field.annotation) for name, field in task.output_fields.items()}

    @property
    def signature(self) -> ModelSignature:
        """The signature of the model: a row's inputs, and what comes back for it."""
        inputs: list[Any] = []
        anything: Any = AnyType
        for name, field in self.task.input_fields.items():
            type_ = _column(field.annotation)
            is_needed = field.is_required() and type_ is not None
            inputs.append(ColSpec(anything() if type_ is None else type_, name, required=is_needed))
        # In two objects, where each value may be missing: in a column of its own, MLflow's Spark function
        # makes "None" or "nan" of a text that is missing, and False of a truth value.
        outputs = Schema([_object(_OUTPUTS, self._outputs), _object(_ACCOUNT, _OF_AN_ANSWER)])
        return ModelSignature(Schema(inputs), outputs, ParamSchema([ParamSpec(_CONCURRENCY, DataType.long, 8)]))

    def cells(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs of the task as they stand in a row."""
        return {name: to_jsonable(inputs[name]) for name in self.task.input_fields if name in inputs}

    def inputs(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What a row gives of the inputs, typed; what is null is left out.

        Raises:
            ValueError: If one is missing, or of another type.
        """
        given = {}
        for name, field in self.task.input_fields.items():
            value = to_jsonable(row.get(name))  # pandas has NaN where nothing is
            if value is not None:
                try:
                    given[name] = validated(value, field.annotation)
                except ValueError:
                    given[name] = validated(_read(value), field.annotation)
        return check_inputs(self.task, given)

    def outputs(self, values: Mapping[str, Any] | None) -> dict[str, Any]:
        """The task's outputs as they stand in a row; all None if there are none.

        Raises:
            ValueError: If a number is none that a table can hold.
        """
        if values is None:
            return dict.fromkeys(self._outputs)
        return {name: _cell(name, values[name], type_) for name, type_ in self._outputs.items()}


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
        self.columns = Columns(self.moa.signature)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """The answers, one row for each.

        Args:
            context: MLflow's, not used.
            model_input: The task's inputs.
            params: `concurrency`: rows under way at once; each asks all its proposers at once.

        Returns:
            A DataFrame with the columns `outputs` and `account`, and the index of the input.

        Raises:
            ValueError: Before anything is asked, if a provider's key is missing in the environment.
        """
        concurrency = int((params or {}).get(_CONCURRENCY, 8))
        require_positive(concurrency=concurrency)
        rows: Sequence[Mapping[str, Any]] = model_input.to_dict("records")
        if rows and not _asks_nobody.get():
            check_keys(self.moa.agents)
        numbered = run_side_by_side(lambda item: (item[0], self._answer(item[1])), list(enumerate(rows)), concurrency)
        answered = [answer for _, answer in sorted(numbered, key=lambda item: item[0])]
        return pd.DataFrame(answered, index=model_input.index, columns=[_OUTPUTS, _ACCOUNT])

    def _answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        metadata: MoAMetadata | None = None
        outputs, error = None, None
        if _asks_nobody.get():
            return {_OUTPUTS: self.columns.outputs(None), _ACCOUNT: _describe(None, None)}
        try:
            inputs = self.columns.inputs(row)
            # Nobody reads DSPy's trace of a batch, and it would keep all prompts in memory.
            with dspy.context(trace=None):
                prediction = self.moa(**inputs)
            metadata = prediction.metadata
            outputs = self.columns.outputs(dict(prediction.items()))
        except Exception as failed:
            metadata = failed.metadata if isinstance(failed, MoAError) else metadata
            error = f"{type(failed).__name__}: {redact(str(failed), *(agent.lm for agent in self.moa.agents))}"
        return {_OUTPUTS: outputs or self.columns.outputs(None), _ACCOUNT: _describe(metadata, error)}


class MixtureAgent(ResponsesAgent):
    """Answers chat payloads: the last message of the user is the question."""

    def __init__(self, **types: type) -> None:
        self.types = types  # classes of the user's own, by name

    def load_context(self, context: Any) -> None:
        self.moa = _load(context, self.types)
        [self.input], [self.output] = self.moa.signature.input_fields, self.moa.signature.output_fields

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:  # type: ignore[override]
        if _asks_nobody.get():
            return ResponsesAgentResponse(output=[])
        prediction = self.moa(**{self.input: _question(request)})
        item: Any = self.create_text_output_item(prediction[self.output], str(uuid.uuid4()))
        return ResponsesAgentResponse(output=[item], custom_outputs=_describe(prediction.metadata, None))

    def predict_stream(  # type: ignore[override]
        self, request: ResponsesAgentRequest
    ) -> Generator[ResponsesAgentStreamEvent, None, None]:
        # A mixture's answer is whole only when the aggregator has written it: it comes as one piece.
        text, id = self.moa(**{self.input: _question(request)})[self.output], str(uuid.uuid4())
        done: Any = {"type": "response.output_item.done", "item": self.create_text_output_item(text, id)}
        yield ResponsesAgentStreamEvent(**self.create_text_delta(text, id))
        yield ResponsesAgentStreamEvent(**done)


@contextmanager
def ask_nobody() -> Iterator[None]:
    """Programs called meanwhile answer nothing: MLflow tries what it logs, which would cost money and need keys."""
    token = _asks_nobody.set(True)
    try:
        yield
    finally:
        _asks_nobody.reset(token)


def check_chat(task: type[dspy.Signature]) -> None:
    """Refuse a task that no chat can be about.

    Raises:
        ValueError: If it has not one text input and one text output.
    """
    fields = [list(task.input_fields.values()), list(task.output_fields.values())]
    if any(len(kind) != 1 or kind[0].annotation is not str for kind in fields):
        raise ValueError(
            f"A chat gives one text and wants one back, and this task is {task.signature!r} with other fields or "
            "types. Log it with serve_as='rows'."
        )


def _load(context: Any, types: Mapping[str, type]) -> MoA:
    # Who runs a model runs the code in it: the addresses in it are trusted as much.
    return MoA.from_file(context.artifacts[PROGRAM], allow_unsafe_lm_state=True, custom_types=types)


def _question(request: ResponsesAgentRequest) -> str:
    said = [message.model_dump() for message in request.input]
    content = next((one["content"] for one in reversed(said) if one.get("role") == "user"), "")
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)


def _describe(metadata: MoAMetadata | None, error: str | None) -> dict[str, Any]:
    """How a row was answered, or why not; what is not known is None."""
    if metadata is None:
        return {**dict.fromkeys(_OF_AN_ANSWER), "error": error}
    proposals = {proposal.id: proposal.outputs for proposal in metadata.all_proposals}
    return {
        "error": error,
        "agreement": metadata.agreement,
        "degraded": metadata.degraded,
        "cost_usd": metadata.usage.cost_usd,
        "unpriced_calls": metadata.usage.unpriced_calls,
        "seconds": metadata.seconds,
        "proposals": to_json(proposals),
    }


def _column(annotation: Any) -> DataType | Array | None:
    """MLflow's type; None for what is JSON."""
    items: Sequence[Any] = getattr(annotation, "__args__", ())
    if getattr(annotation, "__origin__", None) is list and len(items) == 1 and items[0] in _SCALARS:
        return Array(_SCALARS[items[0]])
    return _SCALARS.get(annotation) if isinstance(annotation, type) else None


def _object(name: str, types: Mapping[str, Any]) -> ColSpec:
    # As text, since MLflow's Spark function cannot carry an object that is missing.
    return ColSpec(
        Object([Property(part, type_ or DataType.string, required=False) for part, type_ in types.items()]), name
    )


def _read(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:  # text that is meant as it stands
        return value


def _cell(name: str, value: Any, type_: DataType | Array | None) -> Any:
    if type_ is None:
        data = to_jsonable(value)
        return data if data is None or isinstance(data, str) else to_json(data)
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise ValueError(f"The output {name} is a whole number of more than 64 bits, which no table holds.")
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"The output {name} is {number}, which JSON cannot say.")
    return to_jsonable(value)
