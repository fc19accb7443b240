"""ReAct agents as proposers: each works with tools on its own model, then the panel votes.

$ python examples/react.py
Lima (7 calls)
alice Lima after 1 steps
bob Lima after 1 steps
carol Lima after 1 steps
"""

from typing import Any

import dspy
from models import AGGREGATOR, PROPOSERS

from moa_dspy import Agent, MoA


def capital_of(country: str) -> str:
    """Look up a capital."""
    return {"Peru": "Lima", "Australia": "Canberra"}.get(country, "unknown")


task: Any = "question -> answer"  # DSPy takes strings, and does not declare so
agents = [Agent(model, program=dspy.ReAct(task, tools=[capital_of])) for model in PROPOSERS]
pred = MoA("question -> answer", agents, AGGREGATOR)(question="What is the capital of Peru?")
print(pred.answer, f"({pred.metadata.usage.calls} calls)")
for proposal in pred.proposals:
    steps = sum(name.startswith("tool_name") for name in proposal.extras.get("trajectory", {}))
    print(proposal.agent, proposal.outputs["answer"], f"after {steps} steps")
