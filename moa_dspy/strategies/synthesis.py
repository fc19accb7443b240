"""Synthesis: reads all proposals and writes a new answer."""

from __future__ import annotations

from collections.abc import Sequence

import dspy

from moa_dspy.concurrency import Steps
from moa_dspy.signatures import synthesis_signature
from moa_dspy.strategies.base import Case, Strategy, Verdict
from moa_dspy.values import outputs_of

__all__ = ["Synthesis"]


class Synthesis(Strategy):
    """The aggregator reads all proposals and writes a new answer, typed as the task.

    One aggregator call. The aggregation of Wang et al., "Mixture-of-Agents Enhances Large Language
    Model Capabilities" (2024).
    """

    name = "synthesis"
    needs_aggregator = True
    asks_one_lm = True

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        self.synthesize = dspy.Predict(synthesis_signature(task))

    def decide(self, case: Case) -> Steps[Verdict]:
        reply = yield from self.ask(self.synthesize, case)
        return Verdict(
            {name: reply.prediction[name] for name in outputs_of(case.task)},
            reasoning=reply.prediction.get("reasoning"),
            **reply.told,
        )
