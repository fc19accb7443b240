from collections.abc import Callable
from datetime import date
from enum import Enum
from typing import Any, Literal, Optional

import dspy
import pytest
from pydantic import BaseModel, Field
from support.cases import ADAPTERS, blocks, mixture_of, request, told
from support.fake_lm import FakeLM
from support.mixtures import Ask, both_ways
from support.rendering import render

from moa_dspy import MoA
from moa_dspy.signatures import task_signature
from moa_dspy.strategies import STRATEGIES


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    city: str
    tags: list[str] = []


class Person(BaseModel):
    name: str = Field(max_length=50)
    age: int | None = None
    homes: list[Address] = []


ADA = Person(name="Ada", age=36, homes=[Address(city="London", tags=["a\nb"])])
ALAN = Person(name="Alan")

# A type, two values of it.
TYPES = [
    pytest.param(str, "x\ny", "z", id="str"),
    pytest.param(bool, True, False, id="bool"),
    pytest.param(int, 7, -7, id="int"),
    pytest.param(float, 0.5, 2.0, id="float"),
    pytest.param(Literal["yes", "no"], "yes", "no", id="Literal"),
    pytest.param(Literal[1, 2], 1, 2, id="Literal of numbers"),
    pytest.param(Color, Color.RED, Color.BLUE, id="enum"),
    pytest.param(date, date(2020, 1, 2), date(2021, 1, 2), id="date"),
    pytest.param(list[str], ["x", "y\nz"], ["w"], id="list"),
    pytest.param(list[int], [1], [2, 3], id="list of numbers"),
    pytest.param(dict[str, float], {"a b": 1.5}, {"c": 2.0}, id="dict"),
    pytest.param(Person, ADA, ALAN, id="model"),
    pytest.param(list[Person], [ADA], [ALAN, ADA], id="list of models"),
    pytest.param(dict[str, list[Address]], {"k": [Address(city="Ulm")]}, {"l": []}, id="models deep inside"),
    pytest.param(Optional[int], 7, 8, id="Optional"),  # noqa: UP045
    pytest.param(Person | None, ADA, ALAN, id="union with None"),
]
EVERY_ADAPTER = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)


def typed(kind: Any) -> type[dspy.Signature]:
    return task_signature("question -> x").delete("x").append("answer", dspy.OutputField(desc="what is asked"), kind)


def judging(value: Any) -> Callable[[str], dict[str, Any]]:
    """A judge of every strategy: writes this value, names the first proposal, groups nothing."""
    return lambda prompt: {
        "reasoning": "so",
        "answer": value,
        "choice": "P1",
        "groups": [["P1"], ["P2"]],
        "best": "P1",
        "elements": [{"statement": "s", "kind": "unique", "supported_by": ["P1"]}],
    }


@EVERY_ADAPTER
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("kind", "one", "other"), TYPES)
def test_every_strategy_answers_in_every_type(
    kind: Any, one: Any, other: Any, strategy: str, adapter: dspy.Adapter
) -> None:
    judge = FakeLM("judge", judging(one))
    with dspy.context(adapter=adapter):
        pred = mixture_of(typed(kind), [{"answer": one}, {"answer": other}], judge, strategy=strategy)(question="why?")
    assert pred.metadata.failures == []
    assert [proposal.outputs["answer"] for proposal in pred.proposals] == [one, other]
    expected = {"synthesis": [one], "selection": [one, other], "voting": [one, other]}.get(strategy)
    if expected is None:  # fusion: what of the two could be merged, completed by the judge
        expected = [one] if judge.calls else [pred.answer]
        assert judge.calls or isinstance(pred.answer, (list, dict))
    assert pred.answer in expected and type(pred.answer) is type(one)


@EVERY_ADAPTER
@both_ways
def test_several_outputs_of_several_types(ask: Ask, adapter: dspy.Adapter) -> None:
    task = "question -> ok: bool, color: Color, people: list[Person], note: str | None"
    outputs = {"ok": True, "color": Color.RED, "people": [ADA], "note": "n"}
    with dspy.context(adapter=adapter):
        pred = ask(
            mixture_of(task, [outputs, outputs], FakeLM("judge", [{"reasoning": "so", **outputs}])), question="?"
        )
    assert dict(pred.items()) == outputs


@EVERY_ADAPTER
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nothing_is_an_answer_where_the_task_allows_it(strategy: str, adapter: dspy.Adapter) -> None:
    task = "question -> n: int | None, names: list[str]"
    judge = FakeLM("judge", lambda prompt: {**judging(None)(prompt), "n": None, "names": []})
    with dspy.context(adapter=adapter):
        pred = mixture_of(task, [{"n": None, "names": []}] * 2, judge, strategy=strategy)(question="?")
    assert pred.toDict() == {"n": None, "names": []}
    assert pred.metadata.failures == []


class Album(dspy.Signature):
    """Talk about pictures."""

    pictures: list[dspy.Image] = dspy.InputField()
    cover: dspy.Image = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


@EVERY_ADAPTER
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pictures_reach_proposers_and_judge_as_pictures(strategy: str, adapter: dspy.Adapter) -> None:
    style: Any = {dspy.ChatAdapter: "chat", dspy.JSONAdapter: "json", dspy.XMLAdapter: "xml"}[type(adapter)]
    lms = [FakeLM(name, [render(style, judging(name)(""))] * 2) for name in ("a", "b", "judge")]
    given = {"cover": picture("c"), "pictures": [picture("p"), picture("q")], "question": "why?"}
    with dspy.context(adapter=adapter):
        pred = MoA(Album, lms[:2], lms[2], strategy=strategy, layers=2)(**given)
    assert pred.metadata.failures == []
    for lm in lms:
        parts = lm.requests[-1].messages[-1].parts
        assert [part.type for part in parts if part.type != "text"] == ["image"] * 3


def picture(name: str) -> dspy.Image:
    return dspy.Image(url=f"https://example.com/{name}.png")


@EVERY_ADAPTER
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_conversation_goes_on(strategy: str, adapter: dspy.Adapter) -> None:
    history = dspy.History(messages=[{"question": "earlier", "answer": "before"}])
    judge = FakeLM("judge", judging("x"))
    with dspy.context(adapter=adapter):
        outputs = [{"answer": "x"}, {"answer": "y"}]
        moa = mixture_of("history: dspy.History, question -> answer", outputs, judge, strategy=strategy)
        pred = moa(history=history, question="now?")
    assert (pred.answer in "xy", pred.metadata.failures) == (True, [])
    assert "earlier" in judge.prompts[0] and "before" in judge.prompts[0]


class Painter(dspy.Module):
    """A program of one's own, whose answers no text can hold."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.picture = picture(name)

    def forward(self, wish: str) -> dspy.Prediction:
        return dspy.Prediction(picture=self.picture)


@pytest.mark.parametrize("strategy", ["selection", "voting"])
def test_pictures_can_be_chosen_among(strategy: str) -> None:
    judge = FakeLM("judge", judging("x"))
    painters = [Painter("one"), Painter("two")]
    pred = MoA("wish -> picture: dspy.Image", painters, judge, strategy=strategy)(wish="a cat")
    shown = blocks(told(judge)["proposals"])
    assert repr(pred.picture) == shown["P1"].fields["picture"]
    assert pred.picture in [painter.picture for painter in painters]


@both_ways
def test_one_proposal_and_thirty(ask: Ask) -> None:
    for number in (1, 30):
        judge = FakeLM("judge", judging("x"))
        outputs = [{"answer": f"x{n}"} for n in range(number)]
        pred = ask(mixture_of("question -> answer", outputs, judge), question="?")
        assert (pred.answer, len(pred.proposals), len(blocks(told(judge)["proposals"]))) == ("x", number, number)


def test_odd_text_comes_through_unchanged() -> None:
    odd = "\u202eRTL\u202c \u2028 \N{GRINNING FACE} \x00 e\u0301 ««« [[ ## answer ## ]] </answer>"
    with dspy.context(adapter=dspy.JSONAdapter()):
        judge = FakeLM("judge", judging("x"))
        pred = mixture_of("question -> answer", [{"answer": odd}, {"answer": odd + "2"}], judge, strategy="selection")(
            question="?"
        )
    assert pred.answer in (odd, odd + "2")
    assert request(judge).fields == ("reasoning", "choice")


def test_half_a_surrogate_pair_does_no_harm() -> None:
    half = '{"reasoning": "so", "answer": "\\ud83d x"}'
    with dspy.context(adapter=dspy.JSONAdapter()):
        judge = FakeLM("judge", judging("ok"))
        pred = MoA("question -> answer", [FakeLM("a", [half]), FakeLM("b", [half])], judge)(question="?")
    assert pred.answer == "ok"
    assert blocks(told(judge)["proposals"])["P1"].given_by == 2
    assert "\N{REPLACEMENT CHARACTER} x" in told(judge)["proposals"]
    assert pred.metadata.model_dump_json()
