"""A recording: what was asked, answered and paid, one row per question."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import dspy

from moa_dspy.agent import as_identifier
from moa_dspy.files import drafting
from moa_dspy.recording.files import read_rows
from moa_dspy.recording.questions import Cells, as_questions, read_file
from moa_dspy.recording.rows import IMPORTED, Row
from moa_dspy.results import Failure, Proposal
from moa_dspy.usage import Usage
from moa_dspy.values import to_json, to_jsonable

if TYPE_CHECKING:
    import pandas

__all__ = ["Recording"]

Answers = Mapping[str, Sequence[Any]]


class Recording(Sequence[Row]):
    """What was asked, answered and paid, one row per question; what measures or learns works on it without a call.

    Args:
        rows: The rows, in the order of the questions.

    Examples:
        ```python
        recording = moa_dspy.record(moa, examples, "answers.jsonl")  # asks; resumes where it was cut short
        recording = moa_dspy.Recording.load("answers.jsonl")
        recording.usage.cost_usd, recording.to_pandas()
        moa_dspy.evaluate(moa, recording, metric="exact")  # scored anew without a call
        ```
    """

    def __init__(self, rows: Iterable[Row] = ()) -> None:
        self.rows = list(rows)

    @classmethod
    def load(cls, path: str | Path) -> Recording:
        """Read a file that `save` or `record` wrote, also while it is being written.

        Raises:
            ValueError: If it holds something else, naming the line.
            OSError: If it cannot be read.
        """
        return cls(read_rows(path))

    @classmethod
    def from_answers(
        cls,
        answers: Answers | pandas.DataFrame | str | Path,
        examples: Sequence[dspy.Example | Mapping[str, Any]] | str | Path,
        signature: str | type[dspy.Signature] = "question -> answer",
    ) -> Recording:
        """Import somebody's table of answers of several models.

        Args:
            answers: Agent -> its answers in the order of the examples: the value of the task's one output, a
                mapping of all outputs, or None where there is no answer; as a mapping, a pandas frame with one
                column per agent, or a file of such rows (JSONL, CSV, TSV, Parquet). Models' names become agents'
                as in a mixture: `gpt-5-mini` is `gpt_5_mini`.
            examples: The questions, with gold outputs where they are known; or their file.
            signature: The task.

        Raises:
            ValueError: If the numbers of answers and examples differ, or an answer fits no output.

        Examples:
            >>> asked = [dspy.Example(question="2 + 2?", answer="4").with_inputs("question")]
            >>> recording = Recording.from_answers({"a": ["4"], "b": [None]}, asked)
            >>> recording[0].proposals[0].outputs, recording[0].failures[0].error
            ({'answer': '4'}, 'NoAnswer')
        """
        from moa_dspy.signatures import task_signature

        task = task_signature(signature)
        asked = as_questions(examples, task)
        rows = [Row(mixture=IMPORTED, id=one.id, inputs=one.inputs, gold=one.gold, extra=one.extra) for one in asked]
        for agent, column in _read_table(answers).items():
            if len(column) != len(rows):
                raise ValueError(
                    f"{agent} has {len(column)} answers and there are {len(rows)} examples, so it is not known which "
                    "belongs to which. Give one answer for each example, None where there is none."
                )
            for place, (row, answer) in enumerate(zip(rows, column, strict=True), start=1):
                if answer is None:
                    message = "There is no answer in the table."
                    row.failures.append(Failure(agent=agent, id=agent, error="NoAnswer", message=message))
                else:
                    outputs = _as_outputs(answer, task, f"{agent}, example {place}")
                    row.proposals.append(Proposal(id=agent, agent=agent, outputs=outputs))
        return cls(rows)

    def save(self, path: str | Path) -> None:
        """Write a JSONL file that `load` reads; a file that is there already stays as it is if that fails."""
        with drafting(Path(path).resolve()) as draft:
            draft.write_bytes(b"".join(row.line() for row in self.rows))

    @property
    def agents(self) -> list[str]:
        """The names of the agents that were asked, in declared order."""
        answered = [proposal.agent for row in self.rows for proposal in row.proposals]
        failed = [failure.agent for row in self.rows for failure in row.failures if failure.id is not None]
        return list(dict.fromkeys([*answered, *failed]))

    @property
    def pending(self) -> list[Row]:
        """The questions that wait for a provider's batches; `record` with the same arguments collects them."""
        return [row for row in self.rows if row.batch is not None and row.batch.waiting]

    @property
    def usage(self) -> Usage:
        """All LM calls added up."""
        return sum((row.usage for row in self.rows), Usage.of([]))

    def to_pandas(self) -> pandas.DataFrame:
        """One line per question: inputs, gold and answer, each proposal, and what it took (tokens, USD, seconds)."""
        import pandas

        return pandas.DataFrame([_flat(row) for row in self.rows])

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> Recording: ...

    def __getitem__(self, index: int | slice) -> Row | Recording:
        return Recording(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> Recording:
        return self  # optimizers copy a program once per candidate, with all that it holds

    def __repr__(self) -> str:
        return f"Recording({len(self)} questions, agents {', '.join(self.agents) or 'none'})"


def _flat(row: Row) -> dict[str, Any]:
    cells = {
        **row.inputs,
        **(row.outputs or {}),
        **{f"gold_{name}": value for name, value in row.gold.items()},
        **{f"extra_{name}": value for name, value in row.extra.items()},
        **{f"proposal_{proposal.id}": _short(proposal.outputs) for proposal in row.proposals},
        **{f"verdict_{name}": _short(verdict.outputs or {}) for name, verdict in row.verdicts.items()},
        "id": row.id,
        "mixture": row.mixture,
        "error": None if row.error is None else f"{row.error.type}: {row.error.message}",
        "agreement": row.agreement,
        "confidence": row.confidence,
        "degraded": row.degraded,
        "failures": len(row.failures),
        **row.usage.model_dump(include={"calls", "prompt_tokens", "completion_tokens", "cost_usd", "unpriced_calls"}),
        "seconds": row.seconds,
    }
    values = {name: to_jsonable(value) for name, value in cells.items()}
    return {name: to_json(value) if isinstance(value, (dict, list)) else value for name, value in values.items()}


def _short(outputs: Mapping[str, Any]) -> Any:
    return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs) or None


def _read_table(answers: Answers | pandas.DataFrame | str | Path) -> dict[str, list[Any]]:
    """Agent -> its answers."""
    columns: Any = answers
    if isinstance(answers, (str, Path)):
        rows = list(read_file(answers))
        if broken := [(place, row) for place, row in rows if not isinstance(row, Mapping)]:
            raise ValueError(f"{broken[0][0]} of {answers} is no row of answers: {broken[0][1]!s:.200}")
        names = dict.fromkeys(name for _, row in rows for name in row)
        # An empty cell of a table of texts is no answer.
        columns = {n: [(r.get(n) or None) if isinstance(r, Cells) else r.get(n) for _, r in rows] for n in names}
    elif hasattr(columns, "notna"):  # missing cells of a frame are NaN, of whatever type
        columns = columns.astype(object).where(columns.notna(), None).to_dict("list")
    if not isinstance(columns, Mapping) or not columns:
        raise TypeError(f"A table of answers maps agents to their answers, and this is {answers!r:.60}.")
    table: dict[str, list[Any]] = {}
    for label, column in columns.items():
        if isinstance(column, (str, Mapping)) or not isinstance(column, Iterable):
            raise TypeError(f"{label} has {type(column).__name__} in place of a list of answers, one for each example.")
        # As a mixture names the agent of a model that is called so.
        agent = str(label) if str(label).isidentifier() else as_identifier(str(label).rsplit("/", 1)[-1])
        if agent in table:
            raise ValueError(f"Two columns are the agent {agent!r}: its answers could not be told apart.")
        table[agent] = list(column)
    return table


def _as_outputs(answer: Any, task: type[dspy.Signature], where: str) -> dict[str, Any]:
    names = list(task.output_fields)
    is_data = len(names) > 1 or task.output_fields[names[0]].annotation is not str
    if isinstance(answer, str) and is_data and answer.lstrip()[:1] in ("{", "["):  # a table of texts holds it as JSON
        with suppress(ValueError):
            answer = json.loads(answer)
    if isinstance(answer, Mapping) and set(names) <= set(answer):
        return {name: answer[name] for name in names}
    if len(names) > 1:
        raise ValueError(f"The answer of {where} is no mapping of the outputs {', '.join(names)}: {answer!r:.60}.")
    return {names[0]: answer}
