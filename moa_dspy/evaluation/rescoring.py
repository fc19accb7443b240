"""What a recording can be scored for without a call: what it holds, and what is arithmetic on its proposals."""

from __future__ import annotations

import logging
from collections.abc import Collection, Generator, Sequence

from moa_dspy.evaluation.scores import Kind
from moa_dspy.moa import MoA
from moa_dspy.recording import RecordedVerdict, Recording, Row, name_strategies
from moa_dspy.recording.identity import part_of
from moa_dspy.recording.replay import ReplayedPanel
from moa_dspy.results import Failure
from moa_dspy.strategies import STRATEGIES, Case, Strategy, Unusable, as_strategy

__all__ = ["select_recorded"]

logger = logging.getLogger(__name__)


def select_recorded(
    moa: MoA,
    recording: Recording,
    strategies: Sequence[str | Strategy] | None = None,
    others: Collection[str] | None = None,
    aggregator: str | None = None,
) -> tuple[Recording, dict[str, Kind]]:
    """Find out what a recording can be scored for.

    Args:
        moa: The mixture.
        recording: What was recorded.
        strategies: Which are wanted; None means all that are recorded, and those that ask nobody.
        others: Names of further modules that are wanted; None means all that are recorded.
        aggregator: Under which name the aggregator's model alone would be recorded.

    Returns:
        The recording with the verdicts of strategies that ask nobody, and the kinds of the verdicts that are wanted.

    Raises:
        ValueError: If it is empty, or a proposer's answers are not recorded.
    """
    if not recording:
        raise ValueError("The dataset is empty: there is no question to compare the systems on.")
    asked = {id for row in recording for id in row.asked}
    if missing := [name for name in moa.panels[0].names if name not in asked]:
        raise ValueError(
            f"The recording holds no answer of {', '.join(missing)} (it has {', '.join(recording.agents) or 'none'}), "
            "so this mixture cannot be scored on it. Give a recording of its proposers, or a mixture of the recorded "
            "ones: Agent(model, name=...)."
        )
    rows = [_with_own_verdict(moa, row) for row in recording]
    found = {name: verdict for row in rows for name, verdict in row.verdicts.items()}
    wanted = name_strategies(dict.fromkeys([*STRATEGIES, moa.strategy.name]) if strategies is None else strategies)
    kinds: dict[str, Kind] = {}
    for name, strategy in wanted.items():
        counted = None if name in found else _count(moa, rows, name, strategy)
        rows = rows if counted is None else counted
        if name in found or counted is not None:
            kinds[name] = "strategy"
    for name, verdict in found.items():
        if verdict.by and strategies is None:
            kinds[name] = "strategy"
        elif not verdict.by and (others is None or name in [*others, aggregator]):
            kinds[name] = "other"
    left_out = [name for name in [*(wanted if strategies else ()), *(others or ())] if name not in kinds]
    if left_out:
        logger.warning("%s: not in the recording, and left out, as nobody is asked.", ", ".join(left_out))
    return Recording(rows), kinds


def _with_own_verdict(moa: MoA, row: Row) -> Row:
    """The row of a mixture that was asked as it is, with its answer as the verdict of its strategy."""
    name, aggregator = moa.strategy.name, moa.aggregator.name
    if row.outputs is None or name in row.verdicts or not row.mixture.startswith(f"{name} of "):
        return row
    verdict = RecordedVerdict(
        by=part_of(row.mixture, "aggregator"),
        outputs=row.outputs,
        failure=next((failure for failure in row.failures if failure.id is None), None),
        calls=[call for call in row.calls if call.agent == aggregator],
        seconds=max(0.0, row.seconds - max((proposal.seconds for proposal in row.proposals), default=0.0)),
    )
    panel = [call for call in row.calls if call.agent != aggregator]
    return row.model_copy(update={"calls": panel, "verdicts": {**row.verdicts, name: verdict}})


def _count(moa: MoA, rows: Sequence[Row], name: str, strategy: str | Strategy) -> list[Row] | None:
    """The rows with what a strategy decides on them; None if it would ask an LM."""
    bound = moa.strategy
    if strategy != bound.name:
        bound = as_strategy(strategy)
        bound.has_aggregator = bound.needs_aggregator
        bound.bind(moa.signature, moa.panels[0].names)
    counted = []
    for row in rows:
        if row.error is None:
            verdict = _decide(moa, row, bound)
            if verdict is None:
                return None
            row = row.model_copy(update={"verdicts": {**row.verdicts, name: verdict}})
        counted.append(row)
    return counted


def _decide(moa: MoA, row: Row, strategy: Strategy) -> RecordedVerdict | None:
    round = ReplayedPanel(moa.panels[-1], {}).round(row)
    case = Case(moa.signature, row.inputs, round.proposals, round.asked, has_aggregator=False)
    try:
        decision = strategy.decide(case)
        if isinstance(decision, Generator):
            next(decision)  # what it yields are calls
            decision.close()
            return None
    except StopIteration as end:
        decision = end.value
    except Unusable as error:
        failure = Failure(agent=moa.aggregator.name, error="Unusable", message=str(error))
        return RecordedVerdict(by="counted", outputs=None, failure=failure)
    return RecordedVerdict(by="counted", outputs=dict(decision.outputs), selected=decision.selected)
