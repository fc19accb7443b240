"""Classification by vote: labels are counted in code, no aggregator is asked.

$ python examples/classification.py
Canberra
Canberra by bob, carol
Sydney by alice
"""

from typing import Literal

import dspy
from models import PROPOSERS

from moa_dspy import MoA


class Choose(dspy.Signature):
    """Name the right city."""

    question: str = dspy.InputField()
    city: Literal["Sydney", "Canberra", "Melbourne"] = dspy.OutputField()


pred = MoA(Choose, PROPOSERS, strategy="voting")(question="What is the capital of Australia?")
print(pred.city)
for vote in pred.metadata.votes:
    print(vote.answer["city"], "by", ", ".join(vote.proposals))
