"""A process that records, for tests that kill it or run several: python recorder.py PATH FIRST LAST DELAY."""

import sys
import time

import dspy

from moa_dspy import MoA, record


class Slow(dspy.Module):
    """Answers with the question, after a while; says so on standard output, as a call that was paid."""

    def __init__(self, delay: float) -> None:
        super().__init__()
        self.delay = delay

    def forward(self, question: str) -> dspy.Prediction:
        time.sleep(self.delay)
        sys.stdout.write(f"{question}\n")  # at once: two threads ask
        sys.stdout.flush()
        return dspy.Prediction(answer=question)


def main(path: str, first: str, last: str, delay: str) -> None:
    moa = MoA("question -> answer", [Slow(float(delay))], strategy="voting")
    rows = [{"id": n, "question": f"q{n}"} for n in range(int(first), int(last))]
    record(moa, rows, path, concurrency=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
