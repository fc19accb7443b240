"""Ask a mixture one question and read the account of the answer.

$ python examples/quickstart.py
answer:    Canberra
alice      Sydney
bob        Canberra
carol      Canberra
agreement: 67%
calls:     4 tokens: 1073
cost:      not known
"""

from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA

moa = MoA("question -> answer", PROPOSERS, AGGREGATOR)
pred = moa(question="What is the capital of Australia?")

print("answer:   ", pred.answer)
for proposal in pred.proposals:
    print(f"{proposal.agent:10}", proposal.outputs["answer"])
meta = pred.metadata
print("agreement:", f"{meta.agreement:.0%}" if meta.agreement is not None else "none")
print("calls:    ", meta.usage.calls, "tokens:", meta.usage.prompt_tokens + meta.usage.completion_tokens)
print("cost:     ", f"${meta.usage.cost_usd:.4f}" if meta.usage.cost_usd is not None else "not known")
