"""Critique and revise: a draft of any strategy is held against principles, and written anew.

$ python examples/critique.py
Canberra (4 calls)
critique: A question of geography: I compared 1 proposals and come to Canberra
"""

from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA, Revision, Voting

strategy = Revision(["Name the city only.", "Say so if it is not known."], draft=Voting())
pred = MoA("question -> answer", PROPOSERS, AGGREGATOR, strategy)(question="What is the capital of Australia?")
print(pred.answer, f"({pred.metadata.usage.calls} calls)")
print("critique:", pred.reasoning)
