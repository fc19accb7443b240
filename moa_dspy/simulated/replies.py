"""The reply of a simulated model to a request: every field asked for, in its type, in the adapter's format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dspy.lm15 import Request

from moa_dspy.simulated.answers import Belief, believe
from moa_dspy.simulated.coaching import COACHED, advice, coaching, proposed_instruction
from moa_dspy.simulated.models import SimulatedModel
from moa_dspy.simulated.prompts import Prompt, read_prompt, write_reply
from moa_dspy.simulated.proposals import THOUGHTS, elements, group
from moa_dspy.simulated.values import fill

VERDICTS = frozenset({"choice", "chosen", "best", "winner", "selected", "selection", "label"})
"""The names of fields that ask for the label of a proposal."""

CONFIDENCES = frozenset({"confidence", "certainty", "probability"})
"""The names of fields that ask how sure the model is, from 0 to 1."""


def reply(model: SimulatedModel, request: Request, sample: str = "") -> str:
    """Return the text that the model answers.

    Args:
        model: Who answers.
        request: The prompt, by any of DSPy's adapters or by none.
        sample: Which of its answers is asked for; `""` is the one it gives at temperature 0.

    Example:
        >>> from dspy.lm15 import Message
        >>> request = Request(model="simulated/ace", messages=(Message.user("What is 17*23?"),))
        >>> reply(SimulatedModel("ace", {"arithmetic": 1.0}), request)
        '391'
    """
    prompt = read_prompt(request)
    coached = coaching(prompt, sample)
    return coached if coached is not None else write_reply(prompt.style, _Reply(model, prompt, sample).values())


class _Reply:
    def __init__(self, model: SimulatedModel, prompt: Prompt, sample: str) -> None:
        self.prompt = prompt
        self.sample = sample
        self.belief: Belief = believe(model, prompt, sample)
        special = THOUGHTS | CONFIDENCES
        answers = [name for name in prompt.outputs if name not in special and not self.is_verdict(name)]
        self.main = "answer" if "answer" in answers else next(iter(answers), "")

    def values(self) -> dict[str, Any]:
        return {name: fill(schema, name, self.suggest) for name, schema in self.prompt.outputs.items()}

    def is_verdict(self, name: str) -> bool:
        """Whether a field is about the proposals, and not one that they have themselves."""
        kept = self.belief.kept
        about = name in VERDICTS or name.startswith(("group", "element"))
        return about and kept is not None and name not in kept.fields

    def suggest(self, name: str) -> Iterator[object]:
        """Yield what a field of this name could hold, best first; what does not fit its type is passed over."""
        belief = self.belief
        if COACHED.search(name):
            yield advice(self.prompt, self.sample) or proposed_instruction(self.prompt, self.sample)
        elif name in THOUGHTS:
            yield belief.reasoning
        elif name in CONFIDENCES:
            yield belief.confidence
        elif belief.kept is not None:
            yield from self.suggest_of_proposals(name)
        if name == self.main:
            yield belief.answer
        if self.prompt.outputs.get(name, {}).get("type") == "string":
            yield belief.reasoning

    def suggest_of_proposals(self, name: str) -> Iterator[object]:
        belief, kept = self.belief, self.belief.kept
        if kept is None:
            return
        if name in kept.fields:
            if name != self.main or kept.answer == belief.answer or kept.gives(belief.answer):
                yield kept.fields[name]
        elif name in VERDICTS:
            yield kept.label
        elif name.startswith("group"):
            yield [[shown.label for shown in same] for same in group(belief.proposals)]
        elif name.startswith("element"):
            yield elements(belief.proposals, kept)
        if "enum" in self.prompt.outputs.get(name, {}):
            yield kept.label
