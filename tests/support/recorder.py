"""A process that records, for tests that kill it or run several."""

import time
from pathlib import Path

import dspy

from moa_dspy import MoA, record


class Slow(dspy.Module):
    """Answers with the question, after a while; notes it in a file, as a call that was paid."""

    def __init__(self, notes: Path, delay: float) -> None:
        super().__init__()
        self.notes, self.delay = notes, delay

    def forward(self, question: str) -> dspy.Prediction:
        with open(self.notes, "a") as notes:
            notes.write(f"{question}\n")
        time.sleep(self.delay)
        return dspy.Prediction(answer=question)


def record_slowly(path: Path, notes: Path, first: int, last: int, delay: float) -> None:
    """Record these questions."""
    moa = MoA("question -> answer", [Slow(notes, delay)], strategy="voting")
    record(moa, [{"id": n, "question": f"q{n}"} for n in range(first, last)], path, concurrency=2)
