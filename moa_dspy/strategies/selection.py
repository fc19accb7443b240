"""Selection: names the best proposal; the answer is that proposal, unchanged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import dspy

from moa_dspy.concurrency import Steps, together
from moa_dspy.rendering import group_identical
from moa_dspy.signatures import CHOICE, among, selection_signature
from moa_dspy.strategies.asking import FAILED, Reply
from moa_dspy.strategies.base import Case, Strategy, Verdict

__all__ = ["Selection"]


class Selection(Strategy):
    """The aggregator names the best proposal by its label; the answer is that proposal, value for value.

    `rotations` aggregator calls, none if all proposals are identical. Judges favour places in the list
    (Wang et al., "Large Language Models are not Fair Evaluators", 2023), so each rotation shows the
    proposals in turned order; the verdicts are tallied by proposal. A rotation that fails is told in
    `metadata.failures`, and the others decide.

    Args:
        rotations: How often to ask. `metadata.flip_rate` is the share of verdicts against the winner.

    Raises:
        ValueError: If `rotations` is less than 1.
    """

    name = "selection"
    needs_aggregator = True
    asks_one_lm = True

    def __init__(self, rotations: int = 1) -> None:
        super().__init__()
        if not isinstance(rotations, int) or rotations < 1:
            raise ValueError(f"rotations={rotations!r} asks for no verdict at all. Give a whole number from 1.")
        self.rotations = rotations

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        self.select = dspy.Predict(selection_signature(task))

    def decide(self, case: Case) -> Steps[Verdict]:
        if len(group_identical(case.proposals)) == 1:
            return Verdict(case.proposals[0].outputs, selected=case.proposals[0].id)
        attempts = yield from together(*(self._verdict(case, rotation) for rotation in range(self.rotations)))
        errors = [attempt for attempt in attempts if isinstance(attempt, Exception)]
        replies = [attempt for attempt in attempts if isinstance(attempt, Reply)]
        if not replies:
            raise errors[0]
        chosen = [reply.shown.labels[reply.prediction[CHOICE]] for reply in replies]
        verdicts = Counter(group[0].id for group in chosen)
        support = {group[0].id: len(group) for group in chosen}
        declared = [proposal.id for proposal in case.proposals]
        winner = max(verdicts, key=lambda id: (verdicts[id], support[id], -declared.index(id)))
        return Verdict(
            case.proposal(winner).outputs,
            selected=winner,
            order_shown=replies[0].shown.order,
            shortened=replies[0].shown.shortened,
            flip_rate=1 - verdicts[winner] / len(replies),
            repaired=any(reply.repaired for reply in replies),
            errors=errors,
            reasoning=replies[[group[0].id for group in chosen].index(winner)].prediction.get("reasoning"),
        )

    def _verdict(self, case: Case, rotation: int) -> Steps[Reply | Exception]:
        """One rotation; one that fails leaves the verdict to the others."""
        signature: Any = self.select.signature
        try:
            reply = yield from self.ask(
                self.select,
                case,
                narrow=lambda shown: among(signature, CHOICE, tuple(shown.labels)),
                rotation=rotation,
            )
        except FAILED as error:
            return error
        return reply
