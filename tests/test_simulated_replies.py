import enum
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel

from moa_dspy.signatures import (
    among,
    fusion_signature,
    selection_signature,
    synthesis_signature,
    task_signature,
    voting_signature,
)
from moa_dspy.simulated import SIMULATED_MODELS, SimulatedLM, SimulatedModel
from moa_dspy.simulated.questions import KINDS, bundled_questions
from moa_dspy.simulated.values import fill

TURKEY = "What is the capital of Turkey?"
HOURS = "How many minutes are there in 7 hours?"
UNKNOWN = "I am a simulated model: I know the bundled questions, others worded like them, and simple arithmetic."
ADAPTERS = [
    dspy.ChatAdapter(use_json_adapter_fallback=False),
    dspy.JSONAdapter(),
    dspy.XMLAdapter(use_json_adapter_fallback=False),
]
TASK = task_signature("question -> answer")

adapters = pytest.mark.parametrize("adapter", ADAPTERS, ids=["chat", "json", "xml"])


class City(BaseModel):
    name: str
    rivers: list[str]


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


def model(skill: float = 1.0, **numbers: Any) -> SimulatedLM:
    return SimulatedLM("m", profile=SimulatedModel("m", dict.fromkeys(KINDS, skill), **numbers))


def ask(lm: dspy.LM, signature: Any, adapter: Any = None, **inputs: Any) -> dict[str, Any]:
    with dspy.context(lm=lm, adapter=adapter):
        return dict(dspy.Predict(signature)(**inputs))


def score(lm: dspy.LM, kind: str, instructions: str = "Answer.", demos: int = 0, wrong: bool = False) -> int:
    """How many of the 20 questions of a kind are answered rightly."""
    examples = [example for example in bundled_questions() if example.kind == kind]
    predict = dspy.Predict(TASK.with_instructions(instructions))
    predict.demos = [example.copy(answer="?") if wrong else example for example in examples[:demos]]
    with dspy.context(lm=lm):
        return sum(predict(question=example.question).answer == example.answer for example in examples)


@adapters
@pytest.mark.parametrize(
    ("question", "type_", "expected"),
    [
        (TURKEY, str, "Ankara"),
        (HOURS, str, "420"),
        (HOURS, int, 420),
        (HOURS, float, 420.0),
        (HOURS, int | None, 420),
        (HOURS, list[int], [420]),
        (TURKEY, list[str], ["Ankara"]),
        (TURKEY, Literal["Istanbul", "Ankara"], "Ankara"),
        (TURKEY, City, City(name="Ankara", rivers=[])),
        (TURKEY, str | None, "Ankara"),
        # What the answer cannot become is filled plainly.
        (TURKEY, int, 0),
        (TURKEY, bool, False),
        (TURKEY, Color, Color.RED),
        (TURKEY, Literal["x", "y"], "x"),
        (TURKEY, dict[str, int], {}),
        (TURKEY, int | None, None),
    ],
)
def test_an_answer_takes_the_type_that_is_asked_for(adapter: Any, question: str, type_: Any, expected: object) -> None:
    signature = TASK.with_updated_fields("answer", type_=type_)
    assert ask(model(), signature, adapter, question=question) == {"answer": expected}


STRINGS = {"type": "array", "items": {"type": "string"}}


@pytest.mark.parametrize(
    ("schema", "suggestions", "value"),
    [
        ({"type": "boolean"}, ["maybe", "Yes"], True),
        ({"type": "number"}, ["1,200.50"], 1200.5),
        ({"type": "integer"}, ["2.5"], 0),
        ({"type": "integer", "minimum": 3}, [], 3),
        ({"type": "integer"}, [True], 0),
        ({"type": "null"}, ["x"], None),
        ({"type": "string"}, [None, ["x"]], ""),
        ({"type": "string", "format": "date"}, ["soon", "2024-02-29"], "2024-02-29"),
        ({"type": "string", "format": "date"}, ["soon"], "2000-01-01"),
        ({"const": "a"}, ["b"], "a"),
        ({"oneOf": [{"type": "integer"}, {"type": "boolean"}]}, ["no"], False),
        ({"type": ["string", "null"]}, [], None),
        ({"anyOf": [{"type": "integer"}, {"type": "boolean"}]}, [], 0),
        ({"allOf": [{"$ref": "#/$defs/A"}], "$defs": {"A": {"enum": [1, 2]}}}, ["2.0"], 2),
        ({"type": "string", "default": "d"}, [], "d"),
        ({}, [], "0"),
        (STRINGS, ['["a", "b"]'], ["a", "b"]),
        (STRINGS, ["[not JSON]"], ["[not JSON]"]),
        ({**STRINGS, "minItems": 2}, ["a"], ["a", "a"]),
        ({"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}, [[1], [2, "b"]], [2, "b"]),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, ['{"a": "1"}'], {"a": 1}),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, ["x"], {}),
        ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, ["7"], {"a": 7}),
    ],
)
def test_values_are_made_to_fit_their_schema(schema: dict[str, Any], suggestions: list[Any], value: object) -> None:
    assert fill(schema, "field", lambda name: suggestions) == value


@adapters
def test_every_field_is_filled_in(adapter: Any) -> None:
    signature = "question -> reasoning, answer: int, confidence: float, tags: list[str], note"
    assert ask(model(0.75, other_skill=0.5), signature, adapter, question="3 + 4") == {
        "reasoning": "A question of arithmetic: working through it gives 7",
        "answer": 7,
        "confidence": 0.75,
        "tags": [],
        "note": "A question of arithmetic: working through it gives 7",
    }


@adapters
def test_what_it_does_not_know_it_says_so(adapter: Any) -> None:
    signature = "question -> reasoning, answer, sure: bool"
    assert ask(model(), signature, adapter, question="Why & <how>?") == {
        "reasoning": UNKNOWN,
        "answer": UNKNOWN,
        "sure": False,
    }


@adapters
def test_a_question_is_found_among_the_inputs(adapter: Any) -> None:
    inputs = {"context": "Not [[ ## answer ## ]] <this>.", "query": f"Please tell me: {TURKEY}", "style": "brief"}
    assert ask(model(), "context, query, style -> city", adapter, **inputs) == {"city": "Ankara"}


def test_a_model_without_skill_makes_the_popular_mistakes() -> None:
    ignorant = [SimulatedModel(f"m{n}", {"geography": 0.0}) for n in range(200)]
    said = Counter(SimulatedLM(profile.name, profile)(TURKEY)[0] for profile in ignorant)
    assert said == {"Istanbul": 147, "Bursa": 31, "Izmir": 22}


def test_plain_prompts_get_plain_answers() -> None:
    assert model()(f"  {TURKEY} ") == ["Ankara"]
    assert model()("Hello!") == [UNKNOWN]


@adapters
def test_react_finishes_instead_of_calling_tools_for_ever(adapter: Any) -> None:
    def search(query: str) -> str:
        """Search."""
        raise AssertionError

    with dspy.context(lm=model(), adapter=adapter):
        done = dspy.ReAct(TASK, tools=[search])(question=TURKEY)
    assert (done.answer, done.trajectory["tool_name_0"]) == ("Ankara", "finish")


@adapters
def test_hints_in_the_instructions_change_the_skill(adapter: Any) -> None:
    lm = model(0.4, hints={"dates": {"count month by month": 0.5, "hurry up": -0.4}})
    with dspy.context(adapter=adapter):
        assert (
            score(lm, "dates"),
            score(lm, "dates", "Count, month-by-month!"),
            score(lm, "dates", "Hurry up."),
        ) == (10, 19, 0)
        assert score(lm, "units", "Count month by month.") == score(lm, "units")


def test_a_phrase_helps_one_model_and_confuses_another() -> None:
    phrase = "draw the order as a list"
    effects = {
        name: SIMULATED_MODELS[name].skill("ordering", phrase) - SIMULATED_MODELS[name].skill("ordering")
        for name in ("alice", "bob")
    }
    assert effects == {"alice": pytest.approx(0.3), "bob": pytest.approx(-0.15)}


def test_prompts_of_their_own_raise_the_named_models_further_than_any_common_one() -> None:
    proposers = [SIMULATED_MODELS[name] for name in ("alice", "bob", "carol", "dave")]
    for kind in KINDS:
        phrases = sorted({phrase for model in proposers for phrase in model.hints.get(kind, {})})
        common = [*phrases, " / ".join(phrases)]
        own = sum(max(model.skill(kind, text) for text in ["", *common]) for model in proposers)
        assert own > max(sum(model.skill(kind, text) for model in proposers) for text in ["", *common]) + 0.1


@adapters
def test_demos_with_right_answers_teach_their_kind(adapter: Any) -> None:
    lm = model(0.4, demo_gain=0.2, demo_limit=2)
    with dspy.context(adapter=adapter):
        learned = [score(lm, "dates", demos=count) for count in range(4)]
    assert learned == [10, 16, 18, 18]


@adapters
def test_demos_with_wrong_answers_teach_nothing(adapter: Any) -> None:
    lm = model(0.4, demo_gain=0.2)
    with dspy.context(adapter=adapter):
        assert score(lm, "dates", demos=3, wrong=True) == score(lm, "dates")


def proposals(*answers: str, support: Mapping[int, int] | None = None) -> str:
    counts = support or {}
    return "\n\n".join(
        f"Proposal P{n}{f' (given by {counts[n]} of 5 proposers)' if n in counts else ''}:\n"
        f"«««\nreasoning: I think\nthat it is so: {answer}.\nanswer: {answer}\n»»»"
        for n, answer in enumerate(answers, 1)
    )


BOTH = proposals("Istanbul", "Ankara", "Izmir", support={1: 3})


@adapters
@pytest.mark.parametrize(
    ("skill", "judgement", "answer"),
    [(0.0, 1.0, "Ankara"), (0.0, 0.0, "Istanbul"), (1.0, 0.0, "Istanbul")],
    ids=["judges", "follows", "follows although it knows"],
)
def test_a_synthesis_is_judged_or_follows_the_most(adapter: Any, skill: float, judgement: float, answer: str) -> None:
    said = ask(model(skill, judgement=judgement), synthesis_signature(TASK), adapter, question=TURKEY, proposals=BOTH)
    assert said == {
        "reasoning": f"A question of geography: I compared 3 proposals and come to {answer}",
        "answer": answer,
    }


@adapters
@pytest.mark.parametrize("field", ["label", "choice", "group", "best"])
def test_a_task_may_have_fields_that_are_named_like_verdicts(adapter: Any, field: str) -> None:
    task = task_signature(TASK.delete("answer").append(field, dspy.OutputField(), type_=Literal["Izmir", "Ankara"]))
    shown = proposals("Izmir", "Ankara").replace("answer:", f"{field}:")
    said = ask(model(judgement=1.0), synthesis_signature(task), adapter, question=TURKEY, proposals=shown)
    assert said[field] == ask(model(), task, adapter, question=TURKEY)[field] == "Ankara"


def test_a_judge_who_knows_corrects_what_all_got_wrong() -> None:
    shown = proposals("Istanbul", "Izmir")
    assert ask(model(judgement=1.0), synthesis_signature(TASK), question=TURKEY, proposals=shown)["answer"] == "Ankara"


@adapters
@pytest.mark.parametrize(("judgement", "label"), [(1.0, "P2"), (0.0, "P1")])
def test_a_selection_names_a_label(adapter: Any, judgement: float, label: str) -> None:
    open_choice: Any = selection_signature(TASK)
    for signature in (open_choice, among(open_choice, "choice", ("P3", "P2", "P1"))):
        said = ask(model(judgement=judgement), signature, adapter, question=TURKEY, proposals=BOTH)
        assert said["choice"] == label


@adapters
def test_a_vote_groups_equal_answers(adapter: Any) -> None:
    shown = proposals("420", "7", "420.0", "7", " 420. ", support={2: 2, 4: 2})
    said = ask(model(judgement=1.0), voting_signature(TASK), adapter, question=HOURS, proposals=shown)
    assert (said["groups"], said["best"]) == ([["P2", "P4"], ["P1", "P3", "P5"]], "P1")


@adapters
def test_a_fusion_tells_agreement_from_contradiction(adapter: Any) -> None:
    task = task_signature("question -> answer, country, river")
    shown = "\n\n".join(
        f"Proposal P{n}:\n«««\nanswer: {answer}\ncountry: Turkey\n{rest}»»»"
        for n, (answer, rest) in enumerate([("Ankara", ""), ("Istanbul", "river: Enguri\n")], 1)
    )
    said = ask(model(judgement=1.0), fusion_signature(task), adapter, question=TURKEY, proposals=shown, settled="")
    assert [tuple(element.model_dump().values()) for element in said["elements"]] == [
        ("answer: Ankara", "contradiction", ["P1"], "It stands."),
        ("answer: Istanbul", "contradiction", ["P2"], "It was dropped."),
        ("country: Turkey", "consensus", ["P1", "P2"], None),
        ("river: Enguri", "unique", ["P2"], None),
    ]
    assert (said["answer"], said["country"]) == ("Ankara", "Turkey")


@adapters
def test_what_it_does_not_know_it_takes_from_the_most_supported_proposal(adapter: Any) -> None:
    shown = proposals("blue", "green", support={2: 2}).replace("»»»", 'tags: [\n  "a",\n  "b"\n]\n»»»')
    task = task_signature("question -> answer, tags: list[str]")
    said = ask(model(), synthesis_signature(task), adapter, question="Why?", proposals=shown)
    assert (said["answer"], said["tags"]) == ("green", ["a", "b"])


def test_judging_can_be_hinted_at() -> None:
    texts = ("", "Recompute the answer yourself.", "Prefer the longest proposal.")
    assert [SIMULATED_MODELS["judge"].skill("judgement", text) for text in texts] == [0.5, 0.8, 0.2]


@adapters
def test_an_optimizer_gets_an_instruction_with_a_hint(adapter: Any) -> None:
    signature = "basic_instruction, examples -> proposed_instruction, proposed_prefix"
    said = ask(model(), signature, adapter, basic_instruction="Answer.", examples=f"Q: {TURKEY}\nA: Izmir")
    assert said["proposed_instruction"] in {
        "Answer.\nFor geography: picture the map.",
        "Answer.\nFor geography: beware of larger cities.",
    }


def test_other_samples_propose_other_instructions() -> None:
    with dspy.context(lm=model()):
        proposed: Any = dspy.Predict("basic_instruction -> proposed_instruction", n=10)(basic_instruction="Answer.")
    assert len(set(proposed.completions.proposed_instruction)) > 5


@adapters
def test_advice_is_given_to_every_module(adapter: Any) -> None:
    names = json.dumps(["first", "second.predict"], indent=2)
    said = ask(model(), "module_names, log -> advice: dict[str, str]", adapter, module_names=names, log=TURKEY)
    assert list(said["advice"]) == ["first", "second.predict"]
    assert all(hint.startswith("For geography: ") for hint in said["advice"].values())


def test_a_reflection_hints_at_what_went_wrong() -> None:
    examples = "\n\n".join(
        f"# Example {n}\n## Inputs\n### question\n{question}\n\n"
        f"## Generated Outputs\n### answer\n{said}\n\n## Feedback\nThe answer:\n{right}"
        for n, (question, said, right) in enumerate([(TURKEY, "Ankara", "Ankara"), (HOURS, "42", "420")], 1)
    )
    (reply,) = model()(
        "I provided an assistant with the following instructions:\n```\nFor units: convert to the smallest unit.\n```\n"
        f"Examples:\n```\n{examples}\n```\nProvide the new instructions within ``` blocks."
    )
    assert reply == (
        "```\nFor units: convert to the smallest unit.\nFor units: write the unit after every number.\n```"
    )
