"""Typed extraction with fusion: rows are merged field by field, and each element names who supports it.

$ python examples/extraction.py
item='Widget' quantity=2 price=9.5
item='Bolt' quantity=10 price=0.1
item='Washer' quantity=4 price=0.05
lines[0]: consensus, by ada, ben, cho
lines[1]: consensus, by ada, ben, cho
lines[2]: union, by ada, ben
LM calls: 0
"""

from typing import Any

import dspy
from models import AGGREGATOR
from pydantic import BaseModel

from moa_dspy import Agent, MoA


class Line(BaseModel):
    """A line of an invoice."""

    item: str
    quantity: int
    price: float


class Extract(dspy.Signature):
    """Read the lines of the invoice."""

    invoice: str = dspy.InputField()
    lines: list[Line] = dspy.OutputField()


class Reads(dspy.Module):
    """A stand-in for a model: it reads every line right, but for one that it misreads or misses."""

    def __init__(self, misread: dict[str, str]) -> None:
        super().__init__()
        self.misread = misread

    def forward(self, invoice: str) -> dspy.Prediction:
        for right, wrong in self.misread.items():
            invoice = invoice.replace(right, wrong)
        rows: list[Any] = [row.split(",") for row in invoice.splitlines() if row]
        return dspy.Prediction(lines=[Line(item=item, quantity=number, price=price) for item, number, price in rows])


readers = {"ada": {"10,0.10": "16,0.10"}, "ben": {}, "cho": {"Washer,4,0.05\n": ""}}
moa = MoA(Extract, [Agent(program=Reads(wrong), name=name) for name, wrong in readers.items()], AGGREGATOR, "fusion")
pred = moa(invoice="Widget,2,9.50\nBolt,10,0.10\nWasher,4,0.05\n")

for line in pred.lines:
    print(line)
for element in pred.metadata.elements:
    print(f"{element.path}: {element.kind}, by {', '.join(element.supported_by)}")
print("LM calls:", pred.metadata.usage.calls)  # nothing was in conflict, so the aggregator was not asked
