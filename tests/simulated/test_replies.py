from typing import Any, Literal

import dspy
import pytest

from moa_dspy import MoA
from moa_dspy.simulated import SimulatedLM, SimulatedModel
from moa_dspy.simulated.questions import KINDS

TURKEY = "What is the capital of Turkey?"
HOURS = "How many minutes are there in 5 hours?"
TASK: Any = dspy.Predict("question -> answer").signature

adapters = pytest.mark.parametrize(
    "adapter",
    [dspy.ChatAdapter(use_json_adapter_fallback=False), dspy.JSONAdapter(), dspy.XMLAdapter()],
    ids=["chat", "json", "another, whose fallback is json"],
)


def model(skill: float = 1.0, **numbers: Any) -> SimulatedLM:
    return SimulatedLM("m", SimulatedModel("m", dict.fromkeys(KINDS, skill), **numbers))


def ask(lm: dspy.LM, signature: Any, adapter: Any = None, **inputs: Any) -> dict[str, Any]:
    with dspy.context(lm=lm, adapter=adapter):
        return dict(dspy.Predict(signature)(**inputs))


@adapters
@pytest.mark.parametrize(
    ("question", "type_", "expected"),
    [
        (TURKEY, str, "Ankara"),
        (HOURS, int, 300),
        (HOURS, float, 300.0),
        (TURKEY, Literal["Istanbul", "Ankara"], "Ankara"),
        # What the answer cannot become is the simplest value of its type.
        (TURKEY, int, 0),
        (TURKEY, bool, False),
    ],
)
def test_an_answer_takes_the_type_that_is_asked_for(adapter: Any, question: str, type_: Any, expected: object) -> None:
    signature = TASK.with_updated_fields("answer", type_=type_)
    assert ask(model(), signature, adapter, question=question) == {"answer": expected}


@adapters
def test_every_field_is_filled_in(adapter: Any) -> None:
    signature = "question -> reasoning, answer: int, confidence: float, note"
    thought = "A question of arithmetic: working through it gives 7"
    said = ask(model(), signature, adapter, question="3 + 4")
    assert said == {"reasoning": thought, "answer": 7, "confidence": 1.0, "note": thought}


@adapters
def test_a_question_is_found_among_the_inputs(adapter: Any) -> None:
    inputs = {"context": "Not [[ ## answer ## ]] <this>.", "query": f"Please tell me: {TURKEY}", "style": "brief"}
    assert ask(model(), "context, query, style -> city", adapter, **inputs) == {"city": "Ankara"}


def test_react_finishes_instead_of_calling_tools_for_ever() -> None:
    def search(query: str) -> str:
        """Search."""
        raise AssertionError

    with dspy.context(lm=model()):
        done = dspy.ReAct(TASK, tools=[search])(question=TURKEY)
    assert (done.answer, done.trajectory["tool_name_0"]) == ("Ankara", "finish")


class Says(dspy.Module):
    def __init__(self, answer: str) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, **_: Any) -> dspy.Prediction:
        return dspy.Prediction(answer=self.answer)


def mix(judge: SimulatedLM, strategy: Any, *answers: str, question: str = TURKEY) -> Any:
    """What a mixture makes of these proposals."""
    return MoA("question -> answer", [Says(answer) for answer in answers], judge, strategy)(question=question)


@adapters
@pytest.mark.parametrize("strategy", ["synthesis", "selection"])
@pytest.mark.parametrize(("judgement", "answer"), [(1.0, "Ankara"), (0.0, "Istanbul")], ids=["judges", "follows"])
def test_an_aggregator_judges_or_follows_the_most(adapter: Any, strategy: Any, judgement: float, answer: str) -> None:
    with dspy.context(adapter=adapter):
        pred = mix(model(judgement=judgement), strategy, "Istanbul", "Ankara", "Istanbul")
    assert (pred.answer, pred.metadata.answered_by, pred.metadata.failures) == (answer, strategy, [])


@adapters
def test_a_fusion_settles_what_contradicts_itself(adapter: Any) -> None:
    with dspy.context(adapter=adapter):
        pred = mix(model(judgement=1.0), "fusion", "Ankara", "Istanbul")
    assert (pred.answer, pred.metadata.answered_by) == ("Ankara", "fusion")
    assert {(each.statement, each.kind, each.resolution) for each in pred.metadata.elements} == {
        ("answer: Ankara", "contradiction", "It stands."),
        ("answer: Istanbul", "contradiction", "It was dropped."),
    }


@adapters
def test_what_it_does_not_know_it_takes_from_those_who_answer(adapter: Any) -> None:
    unknown = model()("Why?")[0]
    with dspy.context(adapter=adapter):
        pred = mix(model(), "synthesis", unknown, unknown, "green", "blue", "green", question="Why?")
    assert pred.answer == "green"


@adapters
def test_an_optimizer_gets_an_instruction_with_a_hint(adapter: Any) -> None:
    signature = "basic_instruction, examples -> proposed_instruction"
    said = ask(model(), signature, adapter, basic_instruction="Answer.", examples=f"Q: {TURKEY}\nA: Izmir")
    hints = ("picture the map", "beware of larger cities")
    assert said["proposed_instruction"] in [f"Answer.\nFor geography: {hint}." for hint in hints]


def test_a_reflection_hints_at_what_went_wrong() -> None:
    examples = "\n\n".join(
        f"# Example {n}\n## Inputs\n### question\n{question}\n\n"
        f"## Generated Outputs\n### answer\n{said}\n\n## Feedback\nThe answer:\n{right}"
        for n, (question, said, right) in enumerate([(TURKEY, "Ankara", "Ankara"), (HOURS, "42", "300")], 1)
    )
    current = "For units: convert to the smallest unit."
    (reply,) = model()(
        f"I provided an assistant with the following instructions:\n```\n{current}\n```\n"
        f"Examples:\n```\n{examples}\n```\nProvide the new instructions within ``` blocks."
    )
    assert reply == f"```\n{current}\nFor units: write the unit after every number.\n```"
