"""One model as a panel: each proposer learns from what those before it got wrong, and votes are weighted.

$ python examples/boosting.py
{'alice_1': 3.14, 'alice_2': 0.13, 'alice_3': 1.15}
360 calls
"""

import logging
from typing import Any

import dspy
from models import PROPOSERS

from moa_dspy import MoA
from moa_dspy.optimizers import Boosting
from moa_dspy.simulated.questions import bundled_questions

logging.getLogger("dspy").setLevel(logging.ERROR)

questions = bundled_questions()
optimizer = Boosting("exact", proposers=3, optimizer=dspy.LabeledFewShot(k=4))
panel = optimizer.compile(MoA("question -> answer", PROPOSERS[:1], strategy="voting"), trainset=questions[:40])
strategy: Any = panel.strategy
print({name: round(weight, 2) for name, weight in strategy.weights.items()})
print(optimizer.report.calls, "calls")
