"""RAG with a mixture inside, compiled whole: demos stand with the predictor that wrote them.

$ python examples/rag.py
Bootstrapped 2 full traces after 2 examples for up to 1 rounds, amounting to 2 attempts.
Lima
answer.proposers.shared.predict 2 demos
answer.aggregator.program.synthesize 2 demos
"""

import dspy
from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA
from moa_dspy.simulated.questions import bundled_questions

FACTS = ["Canberra is the capital of Australia.", "A day has 24 hours.", "Lima is the capital of Peru."]


class RAG(dspy.Module):
    """Looks up facts that share words with the question, and lets the mixture answer from them."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = MoA("context: list[str], question -> answer", PROPOSERS, AGGREGATOR)

    def forward(self, question: str) -> dspy.Prediction:
        words = set(question.lower().strip("?").split())
        best = sorted(FACTS, key=lambda fact: -len(words & set(fact.lower().strip(".").split())))
        return self.answer(context=best[:2], question=question)


def right(example: dspy.Example, pred: dspy.Prediction, trace: object = None) -> bool:
    """Whether the answer is the gold one."""
    return pred.answer.strip().lower() == example.answer.lower()


optimizer = dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=2, max_labeled_demos=0)
tuned = optimizer.compile(RAG(), trainset=bundled_questions()[:6])
print(tuned(question="What is the capital of Peru?").answer)
for name, predictor in tuned.named_predictors():
    print(name, len(predictor.demos), "demos")
