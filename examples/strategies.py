"""The four strategies on one task: what each makes of the same proposals, and what it costs.

$ python examples/strategies.py
synthesis  300    calls: 4  selected: None
selection  300    calls: 5  selected: alice
voting     300    calls: 4  selected: alice
fusion     300    calls: 4  selected: None
"""

from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA, Selection, Voting

QUESTION = "How many minutes are there in 5 hours?"

for strategy in ("synthesis", Selection(rotations=2), Voting(), "fusion"):
    moa = MoA("question -> answer: int", PROPOSERS, AGGREGATOR, strategy)
    pred = moa(question=QUESTION)
    name = moa.strategy.name
    print(f"{name:10} {pred.answer!s:6} calls: {pred.metadata.usage.calls}  selected: {pred.metadata.selected}")
