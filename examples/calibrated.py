"""Calibrated answers with abstention, and a cascade that asks on only where it is not sure.

$ python examples/calibrated.py
answered 56 of 60, 12 wrong
cascade: 12 wrong, 2.42 of 3 calls a question
"""

from collections.abc import Sequence
from typing import Any

from models import PROPOSERS

from moa_dspy import MoA
from moa_dspy.optimizers import Calibrate, FitCascade
from moa_dspy.simulated.questions import bundled_questions, held_back_questions

moa = MoA("question -> answer", PROPOSERS, strategy="voting")
fresh = held_back_questions()[:60]


def wrong(preds: Sequence[Any], golds: Sequence[Any]) -> str:
    """How many are wrong."""
    return f"{sum(pred.answer.lower() != gold.answer.lower() for pred, gold in zip(preds, golds, strict=True))} wrong"


sure = Calibrate("exact", max_error=0.25).compile(moa, trainset=bundled_questions())
preds = [sure(question=one.question) for one in fresh]
given = [(pred, gold) for pred, gold in zip(preds, fresh, strict=True) if not pred.metadata.abstained]
print(f"answered {len(given)} of {len(fresh)}, {wrong(*map(list, zip(*given, strict=True)))}")

cascade = FitCascade("exact", max_loss=0.05).compile(moa, trainset=bundled_questions())
preds = [cascade(question=one.question) for one in fresh]
calls = sum(pred.metadata.usage.calls for pred in preds) / len(fresh)
print(f"cascade: {wrong(preds, fresh)}, {calls:.2f} of {len(PROPOSERS)} calls a question")
