"""How one answer is made of proposals: written, chosen, counted, merged, or as the user decides."""

import threading
from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel
from support.fake_lm import FakeLM
from support.mixtures import Ask, both_ways, every_way
from support.shown import ADAPTERS, JUDGED, always, blocks, choosing, grouping, panel_of, request, told

from moa_dspy import Agent, AggregationFailed, Element, MoA, Selection, Strategy, Verdict, Voting

REFUSAL = "I'm sorry, but I can't help with that."


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class City(BaseModel):
    name: str
    people: int


class Sure(BaseModel):
    n: str
    confidence: float


SPAM = Sure(n="spam", confidence=0.9)


def typed(kind: Any) -> Any:
    make: Any = dspy.Signature
    return make({"question": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())})


# Synthesis.


@both_ways
def test_synthesis_writes_a_new_answer_from_the_inputs_and_all_proposals(ask: Ask) -> None:
    judge = FakeLM("judge", [{"reasoning": "so", "answer": "new"}])
    pred = ask(panel_of("x", "y", "x", judge=judge), question="why?")
    assert (pred.answer, pred.metadata.answered_by, pred.metadata.selected) == ("new", "synthesis", None)
    assert list(told(judge)) == ["question", "proposals"] and told(judge)["question"] == "why?"
    shown = blocks(told(judge)["proposals"]).values()
    assert sorted((block.fields["answer"], block.given_by) for block in shown) == [("x", 2), ("y", 1)]


# Selection.


@both_ways
@pytest.mark.parametrize(("chosen", "id"), [("x", "m0"), ("y", "m1"), ("z", "m2")])
def test_selection_answers_with_the_proposal_that_was_named(ask: Ask, chosen: str, id: str) -> None:
    pred = ask(panel_of("x", "y", "z", judge=FakeLM("judge", choosing(chosen)), strategy="selection"), question="?")
    assert (pred.answer, pred.metadata.selected, pred.metadata.flip_rate) == (chosen, id, 0)


@pytest.mark.parametrize("label", ["P1", "P2", "P10", "P11", "P12"])
def test_selection_takes_no_label_for_another(label: str) -> None:
    judge = FakeLM("judge", [{**JUDGED, "choice": label}])
    pred = panel_of(*map(str, range(12)), judge=judge, strategy="selection")(question="?")
    assert pred.answer == blocks(told(judge)["proposals"])[label].fields["answer"]
    assert pred.metadata.order_shown[int(label[1:]) - 1] == pred.metadata.selected


def test_selection_answers_value_for_value() -> None:
    one, other = {"items": [{"k": [1, 2]}], "note": None}, {"items": [], "note": "n"}
    judge = FakeLM("judge", always())
    pred = panel_of(one, other, judge=judge, task="q -> items: list[dict], note: str | None", strategy="selection")(
        q="why?"
    )
    [chosen] = [proposal for proposal in pred.proposals if proposal.id == pred.metadata.selected]
    assert pred.toDict() == chosen.outputs and pred["items"] is chosen.outputs["items"]


@pytest.mark.parametrize(
    ("verdicts", "winner", "flips"),
    [(["y", "x", "y"], "y", 1 / 3), (["x", "y", "y", "x"], "x", 1 / 2), (["z", "y", "x"], "x", 2 / 3)],
)
def test_rotations_turn_the_order_and_report_how_often_the_verdict_flipped(
    verdicts: list[str], winner: str, flips: float
) -> None:
    judge = FakeLM("judge", choosing(*verdicts))
    pred = panel_of("x", "y", "z", judge=judge, strategy=Selection(len(verdicts)))(question="?")
    orders = {
        tuple(b.fields["answer"] for b in blocks(told(judge, n)["proposals"]).values()) for n in range(judge.calls)
    }
    first = next(iter(orders))
    assert orders == {first, (*first[1:], first[0]), (first[2], *first[:2])}
    assert (pred.answer, judge.calls) == (winner, len(verdicts))
    assert pred.metadata.flip_rate == pytest.approx(flips)


# Voting.


@pytest.mark.parametrize(
    ("outputs", "kind", "winner"),
    [
        ([True, False, True], bool, True),
        ([5, -5, 5], int, 5),
        ([0.3, 0.4, 0.1 + 0.2], float, 0.3),
        ([Decimal("1.10"), Decimal("1.2"), Decimal("1.1")], Decimal, Decimal("1.10")),
        (["no", "yes", "yes"], Literal["yes", "no"], "yes"),
        ([Color.RED, Color.BLUE, Color.BLUE], Color, Color.BLUE),
        ([date(2020, 1, 1), date(2021, 1, 1), date(2021, 1, 1)], date, date(2021, 1, 1)),
        ([[1, 2], [2, 1], [1, 2]], list[int], [1, 2]),
        ([City(name="Ulm", people=1), City(name="B", people=1), City(name=" ulm ", people=1)], City, None),
        ([Sure(n="ham", confidence=0.5), SPAM, Sure(n="spam", confidence=0.8)], Sure, SPAM),
        (["A", "A", "B"], str, "A"),
        (["bxc3", "Bxc3", "Bxc3"], str, "Bxc3"),
        (["other", "42", "\u200b42"], str, "42"),
        (["-5", "5", "5"], str, "5"),
        (["Paris", "Rome", "  PARIS"], str, "Paris"),
        ([None, 7, None], int | None, 7),
        ([REFUSAL, "x", REFUSAL], str, "x"),
    ],
)
def test_voting_counts_by_type_and_answers_as_a_proposal_gave_it(outputs: list[Any], kind: Any, winner: Any) -> None:
    pred = panel_of(*outputs, judge=FakeLM("judge", []), task=typed(kind), strategy="voting")(question="?")
    winner = outputs[0] if winner is None else winner
    assert (pred.answer, pred.metadata.selected) == (winner, f"m{outputs.index(winner)}")


def test_voting_tells_the_count_and_leaves_explanations_out_of_it() -> None:
    said = [{"ok": ok, "explanation": why} for ok, why in ((True, "a"), (False, "b"), (True, "c"))]
    pred = panel_of(*said, task="q -> ok: bool, explanation", strategy="voting")(q="?")
    assert pred.toDict() == {"ok": True, "explanation": "a"}
    votes = [(vote.answer["ok"], vote.proposals, vote.weight) for vote in pred.metadata.votes]
    assert votes == [(True, ["m0", "m2"], 2.0), (False, ["m1"], 1.0)]
    assert pred.metadata.agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize(("fields", "answer"), [(["n"], {"n": 2, "m": 5}), (["m"], {"n": 1, "m": 5})])
def test_voting_takes_the_fields_that_are_named(fields: list[str], answer: dict[str, int]) -> None:
    said = [{"n": 1, "m": 5}, {"n": 2, "m": 5}, {"n": 2, "m": 6}]
    assert panel_of(*said, task="q -> n: int, m: int", strategy=Voting(fields))(q="?").toDict() == answer


@pytest.mark.parametrize(
    ("answers", "agreement"),
    [([7, 7, "down", "down"], 1 / 2), ([7, None, 7, 8], 1 / 2), ([7], 1), ([7, "down"], 1 / 2)],
)
def test_who_abstains_or_fails_counts_in_the_agreement(answers: list[Any], agreement: float) -> None:
    down = [dspy.lm15.AuthError("no")]
    lms = [FakeLM(f"m{n}", down if text == "down" else always(answer=text)) for n, text in enumerate(answers)]
    pred = MoA("question -> answer: int | None", lms, strategy="voting")(question="?")
    assert (pred.answer, pred.metadata.agreement) == (7, agreement)


@pytest.mark.parametrize(
    ("weights", "winner"), [({"m2": 2.5}, 8), ({"m0": 0.5, "m1": 0.25}, 8), ({}, 7), ({"m0": 2.0}, 7)]
)
def test_weights_decide(weights: dict[str, float], winner: int) -> None:
    moa = panel_of(7, 7, 8, task="question -> answer: int", strategy=Voting(weights=weights))
    assert moa(question="?").answer == winner


@both_ways
@pytest.mark.parametrize(
    ("answers", "groups", "winner"),
    [
        (["5", "four", "4"], grouping(["4", "four"], ["5"], best="5"), "four"),  # the count stays in code
        (["x", "y"], grouping(["x"], ["y"], best="y"), "y"),  # a tie goes to the best
        (["4", "5", "5", "four", "4", "6"], grouping(["4", "four"], ["5"], ["6"], best="6"), "4"),
    ],
)
def test_texts_without_a_majority_are_grouped_in_one_call(ask: Ask, answers: Any, groups: Any, winner: str) -> None:
    judge = FakeLM("judge", groups)
    pred = ask(panel_of(*answers, judge=judge, strategy="voting"), question="?")
    assert (pred.answer, judge.calls, pred.metadata.usage.calls) == (winner, 1, len(answers) + 1)


def test_a_tie_of_values_goes_to_the_aggregator_and_without_one_by_declared_order() -> None:
    judge, task = FakeLM("judge", choosing("8")), "question -> answer: int"
    assert panel_of(7, 8, 9, 8, 7, judge=judge, task=task, strategy="voting")(question="?").answer == 8
    assert sorted(block.fields["answer"] for block in blocks(told(judge)["proposals"]).values()) == ["7", "8"]
    assert panel_of(8, 7, task=task, strategy="voting")(question="?").answer == 8


@both_ways
@pytest.mark.parametrize("answers", [["x", "y", "z"], ["x", "x", "y", "y"], [REFUSAL, "x"]])
def test_without_an_aggregator_nobody_is_asked(ask: Ask, answers: list[str]) -> None:
    with dspy.context(lm=FakeLM("stray", [])):
        pred = ask(panel_of(*answers, strategy="voting"), question="?")
    assert (pred.answer, pred.metadata.usage.calls, pred.metadata.failures) == ("x", len(answers), [])


@pytest.mark.parametrize(("answers", "kind"), [([REFUSAL, REFUSAL], str), (["", " "], str), ([float("nan")], float)])
def test_nothing_to_count_is_no_answer(answers: list[Any], kind: Any) -> None:
    with pytest.raises(AggregationFailed) as failed:
        panel_of(*answers, task=typed(kind), strategy="voting")(question="?")
    assert len(failed.value.proposals) == len(answers)


class Held(dspy.Module):
    """A proposer that answers 8 when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def forward(self, question: str) -> dspy.Prediction:
        assert self.open.wait(10)
        return dspy.Prediction(answer=8)


@both_ways
@pytest.mark.parametrize(("quick", "answer", "stopped"), [((7, 7, 7), 7, True), ((7, 8), 8, False)])
def test_early_stop_waits_for_nobody_once_the_vote_is_decided(ask: Ask, quick: Any, answer: int, stopped: bool) -> None:
    late = Held()
    threading.Timer(2.0 if stopped else 0.2, late.open.set).start()
    lms = [FakeLM(f"m{n}", always(answer=said)) for n, said in enumerate(quick)]
    strategy = Voting(early_stop=True)
    moa = MoA("question -> answer: int", [*lms, Agent(program=late, name="late")], strategy=strategy)
    pred = ask(moa, question="?")
    assert (pred.answer, pred.metadata.stopped_early, late.open.is_set()) == (answer, stopped, not stopped)
    assert (pred.metadata.proposals_received, pred.metadata.failures) == (3, [])


# Fusion.


class Trip(dspy.Signature):
    """Plan a trip."""

    wish: str = dspy.InputField()
    days: int = dspy.OutputField()
    stops: list[str] = dspy.OutputField(max_length=3)
    home: City = dspy.OutputField()
    plan: str = dspy.OutputField()


def trip(days: int = 2, stops: str = "ab", people: int = 5, plan: str = "go") -> dict[str, Any]:
    return {"days": days, "stops": list(stops), "home": City(name="Ulm", people=people), "plan": plan}


def fused(*said: dict[str, Any], judge: Any = ()) -> tuple[Any, FakeLM]:
    lm = FakeLM("judge", [{**JUDGED, **reply} for reply in judge])
    return panel_of(*said, judge=lm, task=Trip, strategy="fusion")(wish="sea"), lm


def test_fusion_merges_in_code_and_every_element_names_its_supporters() -> None:
    pred, judge = fused(trip(2, "ab"), trip(3, "ac"), trip(2, "a"))
    assert (dict(pred.items()), judge.calls) == (trip(2, "abc"), 0)
    kinds = [(element.kind, element.supported_by) for element in pred.metadata.elements]
    assert kinds[0] == ("majority", ["m0", "m2"]) and ("consensus", ["m0", "m1", "m2"]) in kinds
    assert {("unique", "m0"), ("unique", "m1")} <= {(kind, *by) for kind, by in kinds}


@pytest.mark.parametrize(
    ("said", "reply", "asked"),
    [
        ([trip(plan="go"), trip(plan="rest")], {"plan": "stay"}, ("plan",)),
        ([trip(1), trip(3)], {"days": 2}, ("days",)),
        ([trip(stops="ab", plan="x"), trip(stops="cd", plan="y")], {"stops": ["a"], "plan": "z"}, ("stops", "plan")),
    ],
)
def test_fusion_asks_for_what_is_in_conflict_only(said: Any, reply: dict[str, Any], asked: Sequence[str]) -> None:
    pred, judge = fused(*said, judge=[reply])
    assert tuple(name for name in request(judge).fields if name in Trip.output_fields) == asked
    assert dict(pred.items()) == {**trip(), **reply} and pred.metadata.usage.calls == len(said) + 1
    settled = told(judge)["settled"]
    assert ("days: 2" in settled) == ("days" not in asked) and '"name": "Ulm"' in settled


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
def test_fusions_elements_name_the_proposals_behind_their_labels(adapter: dspy.Adapter) -> None:
    def reply(prompt: str) -> dict[str, Any]:
        shown = blocks(told(judge)["proposals"])
        by = {block.fields["answer"]: label for label, block in shown.items()}
        element = {"statement": "x not y", "kind": "contradiction", "supported_by": [by["x"]], "resolution": "checked"}
        return {**JUDGED, "elements": [element], "answer": "z"}

    judge = FakeLM("judge", reply)
    with dspy.context(adapter=adapter):
        pred = panel_of("x", "y", "x2", "x", "y", judge=judge, strategy="fusion")(question="?")
    expected = Element(statement="x not y", kind="contradiction", supported_by=["m0", "m3"], resolution="checked")
    assert (pred.answer, expected in pred.metadata.elements) == ("z", True)


# A strategy of one's own.


class Longest(Strategy):
    """Asks nobody."""

    name = "longest"

    def decide(self, case: Any) -> Any:
        best = max(case.proposals, key=lambda proposal: len(proposal.outputs["answer"]))
        return Verdict(best.outputs, selected=best.id)


class Debate(Strategy):
    """Asks the aggregator twice."""

    name = "debate"
    needs_aggregator = True

    def bind(self, task: Any, agents: Sequence[str]) -> None:
        self.criticize = dspy.ChainOfThought("question, proposals -> critique")
        self.write = dspy.Predict("question, proposals, critique -> answer")

    def decide(self, case: Any) -> Any:
        first = yield from self.ask(self.criticize, case)
        second = yield from self.ask(self.write, case, extra={"critique": first.prediction.critique})
        return Verdict({"answer": second.prediction.answer})


class Odd(Longest):
    """Decides on what it is told."""

    def __init__(self, decision: Any) -> None:
        super().__init__()
        self.decision = decision

    def decide(self, case: Any) -> Any:
        if isinstance(self.decision, BaseException):
            raise self.decision
        return self.decision


@every_way
def test_a_strategy_of_ones_own_may_ask_nobody(ask: Ask) -> None:
    pred = ask(panel_of("x", "yyy", "zz", strategy=Longest()), question="?")
    assert (pred.answer, pred.metadata.strategy, pred.metadata.selected) == ("yyy", "longest", "m1")


@every_way
def test_a_strategy_of_ones_own_may_ask_the_aggregator(ask: Ask) -> None:
    judge = FakeLM("judge", [{"reasoning": "so", "critique": "both bad"}, {"answer": "new"}])
    moa = panel_of("x", "y", judge=judge, strategy=Debate())
    pred = ask(moa, question="?")
    assert (pred.answer, pred.metadata.answered_by, pred.metadata.usage.calls) == ("new", "debate", 4)
    assert told(judge)["critique"] == "both bad" and told(judge, 0)["proposals"] == told(judge, 1)["proposals"]
    assert len([name for name, _ in moa.named_predictors() if "aggregator" in name]) == 2


@both_ways
@pytest.mark.parametrize(
    "decision",
    [None, {"answer": "x"}, Verdict({"other": "x"}), ZeroDivisionError("a bug")],
    ids=lambda d: type(d).__name__,
)
def test_a_bug_in_a_strategy_is_raised_with_all_that_was_paid_for(ask: Ask, decision: Any) -> None:
    with pytest.raises(AggregationFailed) as failed:
        ask(panel_of("x", "y", strategy=Odd(decision)), question="?")
    assert [proposal.agent for proposal in failed.value.proposals] == ["m0", "m1"]
    assert (failed.value.metadata.usage.calls, failed.value.metadata.fallback_used) == (2, False)
