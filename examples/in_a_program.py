"""A mixture inside a larger DSPy program, evaluated like any other.

$ python examples/in_a_program.py
87.5 % of 24 questions right
"""

import dspy
from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA
from moa_dspy.simulated.questions import bundled_questions


class Quiz(dspy.Module):
    """Answers a question and says how sure the panel is."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = MoA("question -> answer", PROPOSERS, AGGREGATOR, "voting")

    def forward(self, question: str) -> dspy.Prediction:
        pred = self.answer(question=question)
        return dspy.Prediction(answer=pred.answer, sure=pred.metadata.agreement)


def right(example: dspy.Example, pred: dspy.Prediction, trace: object = None) -> bool:
    """Whether the answer is the gold one."""
    return str(pred.answer).strip().lower() == example.answer.lower()


devset = bundled_questions()[:24]
score = dspy.Evaluate(devset=devset, metric=right, num_threads=4)(Quiz()).score
print(f"{score:.1f} % of {len(devset)} questions right")
