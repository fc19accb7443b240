"""Answers to examples, collected once: what is known is not asked again, and what was paid for is not lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dspy
from dspy.utils.exceptions import ContextWindowExceededError, LMError

from moa_dspy.errors import TooFewProposals
from moa_dspy.evaluation import EvaluationInterrupted, evaluate
from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import Metric, MetricError, as_metric, score
from moa_dspy.evaluation.records import Answer, Record
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.values import to_json

from .feedback import metric_name
from .vote_matrix import agent_of

__all__ = ["MAX_OUTAGES", "ProposersUnreachable", "check_recording", "collect", "keeping"]

Progress = Callable[[int, int], None]

MAX_OUTAGES = 0.1
# Examples between two looks at who still answers, and outages that are too few to tell.
_BLOCK, _FEW = 32, 3


class ProposersUnreachable(RuntimeError):
    """Proposers could not be reached so often that what was recorded says more about the outage than about them.

    Attributes:
        comparison: Of the examples that were finished by then.
        reason: What happened, without how to go on.

    Example:
        ```python
        try:
            tuned = optimizer.compile(moa, trainset=train)
        except ProposersUnreachable as error:
            ...  # once they answer again; only what is missing is asked
            tuned = optimizer.compile(moa, trainset=train, recorded=error.comparison)
        ```
    """

    def __init__(self, reason: str, comparison: Comparison, how_to_go_on: str) -> None:
        super().__init__(f"{reason} {how_to_go_on}")
        self.reason = reason
        self.comparison = comparison


def collect(
    moa: MoA,
    examples: Sequence[dspy.Example],
    metric: str | Metric,
    *,
    recorded: Comparison | None = None,
    max_outages: float = MAX_OUTAGES,
    concurrency: int = 8,
    on_progress: Progress | None = None,
    **settings: Any,
) -> Comparison:
    """Evaluate a mixture on examples, those that are recorded already left out.

    Args:
        moa: The mixture.
        examples: Questions with gold outputs.
        metric: As `evaluate` takes it.
        recorded: An earlier comparison of the same mixture, whole or in part. Examples in it are not asked again,
            unless a proposer could not be reached for them; they are scored anew if the metric is another one.
        max_outages: The share of an agent's proposals that may be missing because its LM could not be reached.
        concurrency: Examples under way at once.
        on_progress: Called with the number of examples that are finished and of all.
        **settings: Further arguments of `evaluate`.

    Returns:
        The comparison, its records in the order of the examples.

    Raises:
        ProposersUnreachable: If a proposer failed more often than that; it is noticed before the rest is asked.
        ValueError: If there are no examples, or `recorded` is of another panel; as `evaluate`.
        MetricError: As `evaluate`, EvaluationInterrupted: as `evaluate`; what is recorded is on both.
    """
    if not examples:
        raise ValueError("There are no examples, so there is nothing to ask.")
    known = _known(moa, examples, metric, recorded)
    done = {number: record for number, record in enumerate(known, start=1) if record is not None}
    missing = [number for number in range(1, len(examples) + 1) if number not in done]
    systems = [] if recorded is None else list(recorded.systems)

    def so_far() -> Comparison:
        records = [done[number] for number in sorted(done)]
        common = [system for system in systems if all(system.name in record.answers for record in records)]
        return Comparison(common, records, len(examples), metric_name(metric), settings.get("seed", 0))

    def enter(part: Comparison, numbers: Sequence[int]) -> None:
        systems[:] = part.systems
        done.update({numbers[r.number - 1]: replace(r, number=numbers[r.number - 1]) for r in part.records})

    block = _BLOCK * max(1, concurrency // 8)
    for numbers in [missing[at : at + block] for at in range(0, len(missing), block)]:
        progress = on_progress and _counted(on_progress, len(done), len(examples))
        batch = [examples[number - 1] for number in numbers]
        try:
            part = evaluate(moa, batch, metric, concurrency=concurrency, on_progress=progress, **settings)
        except (EvaluationInterrupted, MetricError) as error:
            if error.comparison is not None:
                enter(error.comparison, numbers)
            error.comparison = so_far()
            raise
        except TooFewProposals as error:
            if not done:
                raise
            raise ProposersUnreachable(str(error), so_far(), _HOW_TO_GO_ON) from error
        enter(part, numbers)
        _refuse_outages(so_far(), max_outages)
    return so_far()


def check_recording(max_outages: float, concurrency: int) -> None:
    """Refuse settings with which nothing could be recorded.

    Raises:
        ValueError: Naming the setting.
    """
    require_positive(concurrency=concurrency)
    if not 0 <= max_outages <= 1:
        raise ValueError(f"max_outages={max_outages} is no share of an agent's proposals. Give 0 to 1.")


@contextmanager
def keeping(comparison: Comparison) -> Iterator[None]:
    """Let what ends the work inside carry what was recorded before it, which `collect` takes, and not its own part."""
    try:
        yield
    except (EvaluationInterrupted, MetricError) as error:
        error.comparison = comparison
        raise


def _counted(on_progress: Progress, before: int, all: int) -> Progress:
    return lambda done, _: on_progress(before + done, all)


def _known(
    moa: MoA, examples: Sequence[dspy.Example], metric: str | Metric, recorded: Comparison | None
) -> list[Record | None]:
    """The usable record of each example, if there is one."""
    if recorded is None:
        return [None] * len(examples)
    panel = moa.panels[0]
    wanted = [name if n == 1 else f"{name}#{n}" for name in panel.names for n in range(1, panel.samples + 1)]
    kept: dict[str, list[Record]] = {}
    for record in recorded.records:
        if list(record.proposals) != wanted:
            raise ValueError(
                f"What is recorded are proposals of {', '.join(record.proposals)}, and this mixture asks for those of "
                f"{', '.join(wanted)}. Give the comparison of this very mixture, or none."
            )
        if not any(_is_outage(answer) for answer in record.proposals.values()):
            kept.setdefault(_key(record.example), []).append(record)
    found = [kept[key].pop(0) if kept.get(key := _key(example)) else None for example in examples]
    if recorded.metric != metric_name(metric):
        scorer = as_metric(metric, moa.signature)
        found = [record and _rescored(record, scorer) for record in found]
    return [record and replace(record, number=number) for number, record in enumerate(found, start=1)]


def _rescored(record: Record, metric: Metric) -> Record:
    """The proposals with scores by another metric; what was made of them is left out."""
    scores = {
        id: 0.0 if answer.outputs is None else score(metric, record.example, dspy.Prediction(**answer.outputs))
        for id, answer in record.proposals.items()
    }
    proposals = {id: replace(answer, score=scores[id]) for id, answer in record.proposals.items()}
    return replace(record, proposals=proposals, answers={})


def _refuse_outages(comparison: Comparison, most: float) -> None:
    asked: dict[str, list[Answer]] = {}
    for record in comparison.records:
        for id, answer in record.proposals.items():
            asked.setdefault(agent_of(id), []).append(answer)
    causes = []
    for agent, answers in asked.items():
        lost = [answer.failure for answer in answers if answer.failure is not None and _is_outage(answer)]
        if len(lost) > max(_FEW, most * len(answers)):
            causes.append(
                f"{agent} could not be reached for {len(lost)} of {len(answers)} proposals "
                f"({lost[-1].error}: {_first_line(lost[-1].message)})"
            )
    if causes:
        raise ProposersUnreachable(
            f"{'; '.join(causes)}. What is chosen on that would be about the outage.",
            comparison,
            f"{_HOW_TO_GO_ON} If they are like that, raise max_outages.",
        )


def _is_outage(answer: Answer) -> bool:
    """Whether an LM could not be reached, as opposed to one whose answer could not be read or was late."""
    return answer.failure is not None and answer.failure.error in _OUTAGES


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")


def _subclasses(kind: type[Exception]) -> set[str]:
    return {kind.__name__}.union(*[_subclasses(sub) for sub in kind.__subclasses__()])


_HOW_TO_GO_ON = (
    "What was answered is in error.comparison: once they answer again, pass it as recorded=, and only the rest is "
    "asked."
)
_OUTAGES = _subclasses(LMError) - _subclasses(ContextWindowExceededError)


def _key(example: dspy.Example) -> str:
    return to_json(dict(example.items()))
