"""Answers of real models, recorded, for `OpenAIServer` to serve."""

import gzip
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from .openai_server import Answerer, ChatRequest, Reply
from .rendering import Asked, asked

FILES = {"gsm": "gsm.jsonl.gz", "math-l5": "math-l5.answers.jsonl.gz", "crux": "crux.jsonl.gz"}
_BESIDE_PROJECT = Path(__file__).parents[2].parent / "shared" / "recordings"


def recordings_dir(path: Path = _BESIDE_PROJECT) -> Path | None:
    """Find the recordings; None where they are not, for tests to skip."""
    return path if all((path / name).is_file() for name in FILES.values()) else None


def load(task: str, path: Path = _BESIDE_PROJECT) -> list[dict[str, Any]]:
    """Read the rows of "gsm", "math-l5" or "crux"."""
    with gzip.open(path / FILES[task], "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def question_of(row: dict[str, Any]) -> str:
    """Tell what to ask: the question, or the row's id where the question's text is not recorded."""
    return str(row["question"] or row["id"])


def recorded_answers(
    rows: Iterable[dict[str, Any]],
    column: Literal["key", "answer"] = "key",
    field: str = "answer",
    *,
    input_field: str = "question",
    others: Answerer | None = None,
    unread: Literal["left out", "empty"] = "left out",
) -> Answerer:
    """Make a server's `answer` that serves what the model of that name answered to that question.

    Args:
        rows: What `load` gave, or a part of it.
        column: "key", the normalised answer, or "answer", as the model wrote it.
        field: The output field that holds the answer; `reasoning` is served too where it is asked for.
        input_field: The input field that holds the question; it must be the only one.
        others: Answers models that are not in the recordings, and prompts with more inputs than the question, such
            as an aggregator's, which also shows proposals. By default these are refused.
        unread: What becomes of an answer that is not known (null). "left out": the reply has no such field, so that
            no type and no adapter can read an answer from it; DSPy raises AdapterParseError after its second try, or
            gives None where the field allows that. Anything written there would be an answer: "" is the right one
            to some questions in crux, and "None" a text like any other. "empty": an empty field all the same, for
            str fields whose caller takes it for an abstention.

    Raises:
        LookupError: From the answerer, on an unknown question, model or output field; the server makes it a 500.
    """
    rows = list(rows)
    by_question = {question_of(row).strip(): row for row in rows}
    if len(by_question) < len(rows):
        raise ValueError("two rows have the same question, so an answer could be either's")
    models = {model for row in rows for model in row["outputs"]}

    def answer(request: ChatRequest) -> Any:
        wanted = asked(request.prompt)
        inputs = wanted.inputs if wanted else {}
        if wanted is None or list(inputs) != [input_field] or request.model not in models:
            if others is not None:
                return others(request)
            seen = f"model {request.model!r} with the inputs {list(inputs)}"
            raise LookupError(f"refused {seen}: the recordings hold {sorted(models)} with {input_field!r}")
        row = by_question.get(inputs[input_field])
        if row is None or request.model not in row["outputs"]:
            raise LookupError(f"no recorded answer of {request.model!r} to the question {inputs[input_field]!r}")
        output = row["outputs"][request.model]
        return _reply(wanted, output, output.get(column, output["answer"]), field, unread)

    return answer


def _reply(wanted: Asked, output: dict[str, Any], answer: str | None, field: str, unread: str) -> Reply:
    if answer is None and unread == "empty":
        answer = ""
    values = {"reasoning": output.get("reasoning", "")} | ({} if answer is None else {field: answer})
    unknown = set(wanted.fields) - {"reasoning", field}
    if unknown:
        raise LookupError(f"the prompt asks for {sorted(unknown)}, the recordings hold 'reasoning' and {field!r}")
    # A line that looks like a field's header would hand the reader another answer than the recorded one.
    if wanted.style == "chat" and any(re.match(r"\[\[ ## \w+ ## \]\]", part.lstrip()) for part in _lines(values)):
        raise LookupError(f"the recorded output holds a field marker: {values!r}")
    return Reply(wanted.render(values))


def _lines(values: dict[str, str]) -> list[str]:
    return [line for value in values.values() for line in value.splitlines()]
