"""Code chosen by unit tests: what passes most of them is the answer, and no aggregator is asked.

$ python examples/code_by_tests.py
def ordered(xs): return sorted(xs)
ada 67%
ben 100%
cho 0%
"""

from typing import Any

import dspy

from moa_dspy import Agent, MoA, Selection


class Writes(dspy.Module):
    """A stand-in for a model that writes code."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self.code = code

    def forward(self, spec: str) -> dspy.Prediction:
        return dspy.Prediction(code=self.code)


def passes(example: dspy.Example, prediction: dspy.Prediction) -> float:
    """The share of the tests that the code passes. Run code that you do not trust in a sandbox."""
    names: dict[str, Any] = {}
    exec(prediction.code, names)
    tests = [([3, 1, 2], [1, 2, 3]), ([], []), ([2, 2], [2, 2])]
    return sum(names["ordered"](given) == right for given, right in tests) / len(tests)


codes = {
    "ada": "def ordered(xs): return sorted(set(xs))",
    "ben": "def ordered(xs): return sorted(xs)",
    "cho": "def ordered(xs): return xs.sort()",
}
agents = [Agent(program=Writes(code), name=name) for name, code in codes.items()]
pred = MoA("spec -> code", agents, strategy=Selection(verifiers=[passes]))(spec="Order a list.")
print(pred.code)
for name, score in pred.metadata.scores.items():
    print(name, f"{score:.0%}")
