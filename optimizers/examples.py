"""What is given to an optimizer: checked before anything is paid for, and each example asked once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import dspy

from moa_dspy.evaluation import Metric, MetricError
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording, RecordingInterrupted, RecordingStopped, Row, Summary, record
from moa_dspy.recording.replay import question_key
from moa_dspy.recording.rows import agent_of, is_outage
from moa_dspy.secrets import redact
from moa_dspy.values import check_inputs, hash_of

from .reports import SpecializationReport

__all__ = [
    "CompileInterrupted",
    "ProposersUnreachable",
    "ask_examples",
    "check_mixture",
    "checked_examples",
    "checked_sets",
    "find_rows",
    "inputs_of",
    "keeping",
    "require_optuna",
]

logger = logging.getLogger(__name__)

# The share of an agent's proposals that may be missing because its LM could not be reached, the number that is too
# few to tell, and the examples between two looks at it.
_OUTAGES, _FEW, _BLOCK = 0.1, 3, 32


class CompileInterrupted(RuntimeError):
    """A compile ended before its time. What was tuned, recorded and paid for until then is on the exception.

    Attributes:
        reason: What happened, without how to go on.
        program: The mixture with what was tuned; None where nothing was.
        report: What was done, and what it cost; None where there are no stages.
        recording: What was answered, for `recorded=`; None where nothing was recorded.
    """

    def __init__(
        self,
        reason: str,
        how_to_go_on: str = "",
        *,
        program: MoA | None = None,
        report: SpecializationReport | None = None,
        recording: Recording | None = None,
    ) -> None:
        super().__init__(f"{reason} {how_to_go_on}".strip())
        self.reason, self.program, self.report, self.recording = reason, program, report, recording


class ProposersUnreachable(CompileInterrupted):
    """Proposers could not be reached so often that what was recorded says more about the outage than about them."""


def check_mixture(student: Any, optimizer: str, *, layers: bool = True) -> MoA:
    """The student; TypeError if it is no mixture, ValueError if it has layers and must not."""
    if not isinstance(student, MoA):
        kind = f"the class {student.__name__}" if isinstance(student, type) else f"a {type(student).__name__}"
        raise TypeError(
            f"{optimizer} works on the agents of a MoA, and {kind} has none of its own. Give it the mixture itself, "
            "also where that is a part of a larger program."
        )
    if len(student.panels) > 1 and not layers:
        raise ValueError(
            f"{optimizer} learns from what the proposers say on their own, and in this mixture the agents of layer "
            f"{len(student.panels)} have seen others' proposals. Build it with layers=1."
        )
    return student


def require_optuna(optimizer: str) -> None:
    """ValueError if optuna, which this optimizer imports once the demos are paid for, is not installed."""
    if find_spec("optuna") is None:
        raise ValueError(f"{optimizer} needs optuna, which is not installed: pip install optuna.")


def checked_sets(
    moa: MoA, trainset: Iterable[dspy.Example], valset: Iterable[dspy.Example] | None, metric: str | Metric
) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """Both sets, checked; warns of what stands in both. No valset gives an empty one."""
    train = checked_examples(moa, trainset, metric)
    val = checked_examples(moa, valset, metric, "valset") if valset else []
    seen = {_key(moa, example) for example in train}
    if twice := sum(_key(moa, example) in seen for example in val):
        said = "%d of %d examples of the valset stand in the trainset too: what is tuned looks better than it is."
        logger.warning(said, twice, len(val))
    return train, val


def checked_examples(
    moa: MoA, examples: Iterable[dspy.Example], metric: str | Metric | None, name: str = "trainset"
) -> list[dspy.Example]:
    """The examples with the inputs that the mixture takes, whether or not `with_inputs` was called."""
    if isinstance(examples, (str, bytes)) or not isinstance(examples, Iterable | None):
        raise TypeError(f"The {name} is no list of dspy.Example, but {type(examples).__name__}.")
    checked, outputs = [], list(moa.signature.output_fields)
    for number, example in enumerate(examples or ()):
        if not isinstance(example, dspy.Example):
            raise TypeError(
                f"{name}[{number}] is no dspy.Example but {type(example).__name__}. Write dspy.Example(**row)"
                f".with_inputs({', '.join(map(repr, moa.signature.input_fields))}) of it."
            )
        holds = f"{name}[{number}] holds {', '.join(example.keys()) or 'nothing'}"
        try:
            checked.append(example.with_inputs(*check_inputs(moa.signature, inputs_of(moa.signature, example))))
        except ValueError as error:
            raise ValueError(f"{holds}. {error}") from error
        if isinstance(metric, str) and not any(output in example for output in outputs):
            raise ValueError(
                f"{holds}, and no gold value for {' or '.join(outputs)}, with which the metric {metric!r} compares. "
                "Add it, or give a metric of your own."
            )
    if not checked:
        raise ValueError(f"The {name} is empty, so there is nothing to go by. Give at least a few examples.")
    return checked


def ask_examples(
    moa: MoA,
    examples: Sequence[dspy.Example],
    *,
    recorded: Recording | None = None,
    on_row: Callable[[Row | None, Summary], None] = lambda row, summary: None,
    **settings: Any,
) -> Recording:
    """Record what a mixture's agents say to examples: one row per question, also where it stands there twice.

    What is in `recorded` is not asked again; by default the proposals alone are asked for. `settings` go to `record`.
    """
    task, wanted = moa.signature, moa.panels[0].names
    if recorded and not set(wanted) <= set(recorded.agents):
        raise ValueError(
            f"What is recorded are proposals of {', '.join(recorded.agents)}, and this mixture asks for those of "
            f"{', '.join(wanted)}. Give a recording of this very mixture, or none."
        )
    # Known by their content: an id may stand in both sets, and for different questions.
    known = [row.model_copy(update={"id": hash_of(row.inputs, 12)}) for row in recorded or ()]
    questions = {_key(moa, one): {n: v for n, v in one.items() if n != "id" or n in task.fields} for one in examples}
    rows: list[Row] = []

    def follow(row: Row | None, summary: Summary) -> None:
        on_row(row, summary)
        if row is not None:
            rows.append(row)
            if len(rows) in (1, len(questions)) or len(rows) % _BLOCK == 0:
                _refuse_outages(moa, rows, Recording([*known, *rows]))

    settings = {"strategies": [], "known": known, "force": True, "on_row": follow, **settings}
    try:
        return record(moa, list(questions.values()), **settings)
    except (RecordingInterrupted, RecordingStopped) as stop:
        # What was known is kept too, also where more was still to be asked for it.
        stop.recording = Recording({row.id: row for row in [*known, *stop.recording]}.values())
        raise


def find_rows(task: type[dspy.Signature], rows: Iterable[Row]) -> Callable[[Any], Row | None]:
    """What gives the row of an example, if there is one."""
    found = {question_key(task, row.inputs): row for row in rows}
    return lambda example: found.get(question_key(task, inputs_of(task, example)))


def inputs_of(task: type[dspy.Signature], example: Any) -> dict[str, Any]:
    """The task's inputs in an example."""
    return {name: example[name] for name in task.input_fields if name in example}


@contextmanager
def keeping(recording: Recording) -> Iterator[None]:
    """Let Ctrl-C, or the error of a metric, carry what was answered."""
    try:
        yield
    except (MetricError, KeyboardInterrupt) as error:
        failed: Any = error
        failed.recording = recording
        raise


def _key(moa: MoA, example: Any) -> str:
    return question_key(moa.signature, inputs_of(moa.signature, example))


def _refuse_outages(moa: MoA, rows: Sequence[Row], recording: Recording) -> None:
    if len(rows) == 1 and rows[0].error is not None and not rows[0].proposals:
        said = f"The first example got no answer, so the others were not asked: {rows[0].error.message}"
        raise ProposersUnreachable(said, recording=recording)
    asked, causes = Counter(agent_of(id) for row in rows for id in row.asked), list[str]()
    for agent in moa.panels[0].names:
        lost = [f for row in rows for f in row.failures if f.agent == agent and f.id is not None and is_outage(f)]
        if len(lost) > max(_FEW, _OUTAGES * asked[agent]):
            cause = f"{lost[-1].error}: {redact(lost[-1].message.partition(chr(10))[0])}"
            causes.append(f"{agent} could not be reached for {len(lost)} of {asked[agent]} proposals ({cause})")
    if causes:
        raise ProposersUnreachable(
            f"{'; '.join(causes)}. What is learned from that would be about the outage.",
            "What was answered is in error.recording: once they answer again, pass it as recorded=, and only the rest "
            "is asked.",
            recording=recording,
        )
