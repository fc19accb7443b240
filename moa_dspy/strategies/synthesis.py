"""A new answer, written by the aggregator: from all proposals, or as the revision of a draft."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any

import dspy

from moa_dspy.concurrency import Steps
from moa_dspy.results import Proposal
from moa_dspy.signatures import CRITIQUE, revision_signature, synthesis_signature
from moa_dspy.strategies.base import Case, Strategy, Verdict
from moa_dspy.values import outputs_of

__all__ = ["Revision", "Synthesis"]


class Synthesis(Strategy):
    """The aggregator reads all proposals and writes a new answer, typed as the task, in one call.

    The aggregation of Wang et al., "Mixture-of-Agents Enhances Large Language Model Capabilities" (2024).
    """

    name = "synthesis"
    needs_aggregator = True
    asks_one_lm = True

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        self.synthesize = dspy.Predict(synthesis_signature(task))

    def decide(self, case: Case) -> Steps[Verdict]:
        reply = yield from self.ask(self.synthesize, case)
        outputs = {name: reply.prediction[name] for name in outputs_of(case.task)}
        return Verdict(outputs, reasoning=reply.prediction.get("reasoning"), **reply.told)


PRINCIPLES = (
    "It answers exactly what was asked, completely.",
    "Everything it says follows from the inputs or is common knowledge.",
    "It says what is not known instead of guessing.",
)


class Revision(Strategy):
    """The aggregator criticises a draft against principles, and writes the answer anew.

    One aggregator call more than the draft's strategy, by default `Synthesis()`. After Bai et al., "Constitutional AI:
    Harmlessness from AI Feedback" (2022), whose first stage is critique and revision.

    Examples:
        >>> from moa_dspy import MoA, Revision, Voting
        >>> strategy = Revision(["Name the city only."], draft=Voting())
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge", strategy)
        >>> moa(question="What is the capital of Peru?").answer
        'Lima'
    """

    name = "revision"
    needs_aggregator = True
    asks_one_lm = True

    def __init__(self, principles: Sequence[str] = PRINCIPLES, draft: Strategy | None = None) -> None:
        super().__init__()
        is_list = not isinstance(principles, str) and all(isinstance(one, str) and one.strip() for one in principles)
        if not (is_list and principles):
            raise ValueError(f"principles={principles!r} hold an answer against no sentence. Give ['Be brief.'].")
        if not isinstance(draft, Strategy | None):
            raise TypeError(f"draft={draft!r} is no Strategy. Give for example draft=Voting().")
        self.principles = list(principles)
        self.draft = draft or Synthesis()

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        self.draft.has_aggregator = self.has_aggregator
        self.draft.bind(task, agents)
        self.revise = dspy.Predict(revision_signature(task, self.principles))

    def decide(self, case: Case) -> Steps[Verdict]:
        made: Any = self.draft.decide(case)
        drafted: Verdict = (yield from made) if isinstance(made, Generator) else made
        proposal = Proposal(id="draft", agent="draft", outputs=dict(drafted.outputs))
        reply = yield from self.ask(self.revise, replace(case, proposals=[proposal]))
        return replace(
            drafted,
            outputs={name: reply.prediction[name] for name in outputs_of(case.task)},
            selected=None,
            elements=(),
            shortened={**drafted.shortened, **reply.shown.shortened},
            repaired=drafted.repaired or reply.repaired,
            reasoning=reply.prediction.get(CRITIQUE),
        )
