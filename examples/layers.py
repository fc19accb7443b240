"""Layers after Wang et al. (2024), and Self-MoA: one model, several samples.

$ python examples/layers.py
one layer  Ankara     4 calls  1:Ankara 1:Bursa 1:Ankara
two layers Ankara     7 calls  1:Ankara 1:Bursa 1:Ankara 2:Ankara 2:Ankara 2:Ankara
self-moa   Ankara     4 calls  1:Ankara 1:Ankara 1:Ankara
"""

from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA

QUESTION = "What is the capital of Turkey?"
topologies = {
    "one layer": MoA("question -> answer", PROPOSERS, AGGREGATOR),
    "two layers": MoA("question -> answer", PROPOSERS, AGGREGATOR, layers=2),
    "self-moa": MoA("question -> answer", PROPOSERS[:1], AGGREGATOR, num_proposals_per_model=3),
}
for name, moa in topologies.items():
    pred = moa(question=QUESTION)
    said = [f"{proposal.layer}:{proposal.outputs['answer']}" for proposal in pred.metadata.all_proposals]
    print(f"{name:10} {pred.answer:10} {pred.metadata.usage.calls} calls  {' '.join(said)}")
