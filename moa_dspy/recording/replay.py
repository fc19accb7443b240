"""A mixture that answers from a recording: it asks nobody."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy

from moa_dspy.allowance import Allowance
from moa_dspy.concurrency import Steps
from moa_dspy.moa import MoA
from moa_dspy.panel import IsDecided, Panel, Round, proposal_ids
from moa_dspy.recording.identity import fingerprints
from moa_dspy.recording.rows import RecordedVerdict, Row, agent_of, typed
from moa_dspy.results import Proposal
from moa_dspy.strategies import Case, Strategy, Unusable, Verdict
from moa_dspy.values import hash_of, to_jsonable

__all__ = ["ReplayedPanel", "question_key", "replay", "separate_verdict"]


def replay(moa: MoA, recording: Iterable[Row], *, ask_aggregator: bool = False) -> MoA:
    """The mixture, answering from a recording without a call.

    Its agents say what is recorded of agents of these names; it may ask fewer of them, and fewer samples, than were
    recorded. A strategy that counts in code decides anew; what an aggregator decided is taken from the recording.

    Args:
        moa: The mixture; it stays as it is.
        recording: What was proposed. Only its questions can be asked.
        ask_aggregator: Whether the aggregator is really asked, on the recorded proposals: what tuning it costs.

    Returns:
        A mixture whose panels answer from the recording.

    Examples:
        ```python
        recording = record(moa, examples)
        voted = replay(MoA(task, proposers, strategy="voting"), recording)
        voted(**examples[0].inputs()).answer  # no call
        ```
    """
    rows = {question_key(moa.signature, row.inputs): row for row in recording}
    replayed: Any = copy.copy(moa)
    for name, panel in zip(moa.panel_names, moa.panels, strict=True):
        setattr(replayed, name, ReplayedPanel(panel, rows))
    if not ask_aggregator:
        strategy = copy.copy(moa.strategy)
        if strategy.needs_aggregator:
            strategy = _RecordedStrategy(strategy.name, rows)
        strategy.has_aggregator = False
        replayed.aggregator = moa.aggregator.with_program(strategy)
        replayed.aggregator.lm = None
    return replayed


def question_key(task: type[dspy.Signature], inputs: Mapping[str, Any]) -> str:
    """What a question is known by, whether its inputs are typed or as a file holds them."""
    return hash_of({name: to_jsonable(inputs[name]) for name in task.input_fields if name in inputs})


def separate_verdict(row: Row) -> Row:
    """The row of a mixture that was asked as it is, with its answer as the verdict of its strategy."""
    name, found, _ = row.mixture.partition(" of ")
    if not found or row.outputs is None or name in row.verdicts:
        return row
    proposers = {agent_of(id) for id in row.asked}
    verdict = RecordedVerdict(
        by=fingerprints(row.mixture).get("aggregator", ""),
        outputs=row.outputs,
        failure=next((failure for failure in row.failures if failure.id is None), None),
        calls=[call for call in row.calls if call.agent not in proposers],
        seconds=max(0.0, row.seconds - sum(row.slowest(layer) for layer in {one.layer for one in row.proposals})),
    )
    calls = [call for call in row.calls if call.agent in proposers]
    return row.model_copy(update={"calls": calls, "verdicts": {**row.verdicts, name: verdict}})


class ReplayedPanel:
    """Stands where a mixture has a panel, and gives what is recorded (`question_key` -> row) instead of asking."""

    def __init__(self, panel: Panel, rows: Mapping[str, Row]) -> None:
        self.panel = panel
        self.names = panel.names
        self.samples = panel.samples
        self.agents: list[Any] = []  # there is nobody whose key could be missing, or who could be tuned
        self.rows = rows

    def __deepcopy__(self, memo: dict[int, Any]) -> ReplayedPanel:
        return self

    def ask(
        self,
        inputs: Mapping[str, Any],
        seen: Sequence[Proposal] = (),
        is_decided: IsDecided | None = None,
        kept: Sequence[Proposal] = (),
        allowance: Allowance | None = None,
    ) -> Steps[Round]:
        """Give the recorded proposals; nothing is stopped early, as nothing is under way."""
        yield from ()
        return self.round(_find_row(self.rows, self.panel.task, inputs))

    def round(self, row: Row) -> Round:
        """What this panel's agents said, as a row holds it."""
        layer, task, wanted = self.panel.layer, self.panel.task, proposal_ids(self.panel)
        came = {proposal.id: proposal for proposal in row.proposals if proposal.layer == layer}
        failed = {f.id: f for f in row.failures if f.id is not None and f.layer == layer and f.id not in came}
        unknown = [id for id in wanted if id not in came and id not in failed]
        if unknown and not row.stopped_early:
            raise ValueError(
                f"The recording holds no proposal of {', '.join(unknown)} (it has {', '.join(came) or 'none'}). Give a "
                "recording of this mixture's agents, or a mixture of the recorded ones."
            )
        proposals = [came[id] for id in wanted if id in came]
        return Round(
            proposals=[one.model_copy(update={"outputs": typed(one.outputs, task)}) for one in proposals],
            failures=[failed[id] for id in wanted if id in failed],
            calls=[],
            asked={id: agent_of(id) for id in wanted if id not in unknown},
            abandoned=unknown,
        )


def _find_row(rows: Mapping[str, Row], task: type[dspy.Signature], inputs: Mapping[str, Any]) -> Row:
    row = rows.get(question_key(task, inputs))
    if row is None:
        raise ValueError(
            f"This question is not in the recording: {to_jsonable(dict(inputs))!r:.200}. A replayed mixture asks "
            "nobody; ask the mixture itself, or record the question first."
        )
    return row


class _RecordedStrategy(Strategy):
    """Says what the strategy of this name decided when it was recorded."""

    def __init__(self, name: str, rows: Mapping[str, Row]) -> None:
        super().__init__()
        self.name = name  # type: ignore[misc]  # of the strategy that it stands for
        self.rows = rows

    def __deepcopy__(self, memo: dict[int, Any]) -> _RecordedStrategy:
        return self

    def decide(self, case: Case) -> Verdict:
        verdict = separate_verdict(_find_row(self.rows, case.task, case.inputs)).verdicts.get(self.name)
        if verdict is None:
            said = f"What {self.name} answers to this question is not recorded; with ask_aggregator=True it is asked."
            raise Unusable(said)
        if verdict.outputs is None:
            cause = "" if verdict.failure is None else f": {verdict.failure.error}: {verdict.failure.message}"
            raise Unusable(f"When this was recorded, {self.name} gave no answer{cause}")
        return Verdict(typed(verdict.outputs, case.task), selected=verdict.selected, flip_rate=verdict.flip_rate)
