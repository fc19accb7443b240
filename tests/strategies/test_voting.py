import asyncio
import threading
from collections.abc import Sequence
from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel
from support.cases import answers, blocks, case_of, choosing, decide, mixture_of, proposer, request, told
from support.fake_lm import FakeLM
from support.mixtures import Ask, both_ways

from moa_dspy import Agent, AggregationFailed, MoA, Voting
from moa_dspy.results import Proposal
from moa_dspy.signatures import task_signature
from moa_dspy.strategies import Unusable, fall_back

QA = "question -> answer"
REFUSAL = "I'm sorry, but I can't help with that."


class Judged(BaseModel):
    label: str
    confidence: float


def typed(annotation: Any) -> type[dspy.Signature]:
    return task_signature("question -> x").delete("x").append("answer", dspy.OutputField(), annotation)


def vote(outputs: Sequence[Any], kind: Any = str, judge: FakeLM | None = None, silent: int = 0, **options: Any) -> Any:
    """What a vote among these answers decides; without a judge there is no aggregator."""
    case = case_of(typed(kind), *answers(*outputs), silent=silent)
    case = type(case)(case.task, case.inputs, case.proposals, case.asked, has_aggregator=judge is not None)
    return decide(Voting(**options), case, judge)


def grouping(*groups: set[str], best: str) -> Any:
    """A judge that puts the proposals with these answers together."""

    def answer(prompt: str) -> dict[str, Any]:
        labels = {block.fields["answer"]: label for label, block in blocks(prompt_of(prompt)).items()}
        return {"reasoning": "so", "groups": [[labels[a] for a in group] for group in groups], "best": labels[best]}

    return answer


def prompt_of(prompt: str) -> str:
    return prompt[prompt.rindex("Proposal P1") : prompt.rindex("\n\nRespond with")]


@pytest.mark.parametrize(
    ("outputs", "kind", "winner"),
    [
        pytest.param([5, -5, 5], int, 5, id="int"),
        pytest.param([0.3, 0.4, 0.1 + 0.2], float, 0.3, id="float"),
        pytest.param(["no", "yes", "yes"], Literal["yes", "no"], "yes", id="literal"),
        pytest.param([[1, 2], [2, 1], [1, 2]], list[int], [1, 2], id="list"),
        pytest.param([{"a": 1}, {"a": 2}, {"a": 2}], dict[Literal["a"], int], {"a": 2}, id="dict"),
        pytest.param(["A", "A", "A", "B"], str, "A", id="text that is an article"),
        pytest.param(["-5", "5", "5"], str, "5", id="text with a sign"),
        pytest.param(["bxc3", "Bxc3", "Bxc3"], str, "Bxc3", id="the most frequent spelling"),
        pytest.param(["other", "42", "\u200b42"], str, "42", id="what nobody sees is no part of an answer"),
        pytest.param(
            [Judged(label=label, confidence=c) for label, c in (("ham", 0.5), ("spam", 0.9), ("spam", 0.8))],
            Judged,
            Judged(label="spam", confidence=0.9),
            id="a confidence does not split the vote",
        ),
        pytest.param([None, 7, None], int | None, 7, id="None abstains"),
    ],
)
def test_the_most_frequent_answer_wins_as_one_proposal_gave_it(outputs: list[Any], kind: Any, winner: Any) -> None:
    verdict = vote(outputs, kind, FakeLM("judge", []))
    assert verdict.outputs["answer"] is outputs[outputs.index(winner)]
    assert verdict.selected == "abcdef"[outputs.index(winner)]


def test_a_mixture_votes_and_tells_how() -> None:
    outputs = [{"ok": ok, "why": why} for ok, why in ((True, "a"), (False, "b"), (True, "c"))]
    pred = mixture_of("q -> ok: bool, why", outputs, None, strategy="voting")(q="?")
    assert pred.toDict() == {"ok": True, "why": "a"}
    metadata = pred.metadata
    assert [(v.answer, v.proposals, v.weight) for v in metadata.votes] == [
        ({"ok": True}, ["m0", "m2"], 2.0),
        ({"ok": False}, ["m1"], 1.0),
    ]
    assert (metadata.selected, metadata.usage.calls) == ("m0", 3) and metadata.agreement == pytest.approx(2 / 3)


def test_what_is_voted_on_can_be_named() -> None:
    outputs = [{"n": 1, "m": 5}, {"n": 2, "m": 5}, {"n": 2, "m": 6}]
    case = case_of("q -> n: int, m: int", *outputs)
    assert decide(Voting(["m"]), case).outputs == outputs[0]
    assert decide(Voting(["n"]), case).outputs == outputs[1]


def test_predictors_that_nobody_would_ask_are_not_built() -> None:
    strategy = Voting()
    names = []
    for strategy.has_aggregator, kind in ((False, str), (True, str), (True, int)):
        strategy.bind(typed(kind), ["a"])
        names.append([name for name, _ in strategy.named_predictors()])
    assert names == [[], ["group", "break_tie"], ["break_tie"]]


def test_texts_without_a_majority_are_grouped_in_one_call() -> None:
    judge = FakeLM("judge", grouping({"4", "four"}, {"5"}, best="5"))
    verdict = vote(["5", "four", "4"], judge=judge)
    assert (verdict.outputs, verdict.selected, judge.calls) == ({"answer": "four"}, "b", 1)
    assert [c.voters for c in verdict.tally.candidates] == [("b", "c"), ("a",)]
    assert request(judge).fields == ("reasoning", "groups", "best")


def test_the_same_call_breaks_a_tie_that_is_left() -> None:
    judge = FakeLM("judge", grouping({"x"}, {"y"}, best="y"))
    assert (vote(["x", "y"], judge=judge).selected, judge.calls) == ("b", 1)


def test_the_best_of_those_that_are_not_tied_for_first_place_breaks_no_tie() -> None:
    judge = FakeLM("judge", grouping({"x", "X!"}, {"y", "Y!"}, {"z"}, best="z"))
    assert vote(["x", "y", "z", "X!", "Y!"], judge=judge).selected == "a"


def test_identical_proposals_are_grouped_with_their_twins() -> None:
    judge = FakeLM("judge", grouping({"4", "four"}, {"5"}, {"6"}, best="6"))
    verdict = vote(["4", "5", "5", "four", "4", "6"], judge=judge)
    assert verdict.tally.candidates[0].voters == ("a", "d", "e")


def test_an_abstention_named_as_the_best_breaks_no_tie() -> None:
    judge = FakeLM("judge", grouping({"x"}, {"y"}, best=REFUSAL))
    assert vote([REFUSAL, "x", "y"], judge=judge).selected == "b"


def test_text_compared_letter_by_letter_is_not_grouped() -> None:
    judge = FakeLM("judge", choosing("X"))
    verdict = vote(["x", "X"], judge=judge, exact_text=True)
    assert (verdict.outputs, request(judge).fields) == ({"answer": "X"}, ("reasoning", "choice"))


def test_a_proposal_in_two_groups_is_complained_of_once() -> None:
    def overlapping(prompt: str) -> dict[str, Any]:
        return {"reasoning": "so", "groups": [["P1", "P2"], ["P2"]], "best": "P1"}

    judge = FakeLM("judge", overlapping)
    with pytest.raises(Unusable, match=r"^P2 stand in two groups"):
        vote(["x", "y"], judge=judge)
    assert judge.calls == 2


# Ties: weight, then the aggregator, then declared order.


def test_a_tie_is_broken_by_the_aggregator_among_the_leaders_only() -> None:
    judge = FakeLM("judge", choosing("8"))
    verdict = vote([7, 8, 9, 8, 7], int, judge)
    assert (verdict.selected, judge.calls, request(judge).fields) == ("b", 1, ("reasoning", "choice"))
    assert sorted(block.fields["answer"] for block in blocks(told(judge)["proposals"]).values()) == ["7", "8"]
    assert verdict.tally.candidates[0].voters == ("b", "d")


def test_a_tie_goes_by_declared_order_where_there_is_no_aggregator() -> None:
    assert vote([8, 7], int).selected == "a"
    assert vote(["y", "x"]).selected == "a"


def test_samples_vote_with_their_agents_weight() -> None:
    case = case_of("q -> n: int", {"n": 7}, {"n": 8}, {"n": 8})
    asked = {"a": "x", "b": "y", "c": "y"}
    strategy = Voting(weights={"x": 3})
    assert decide(strategy, type(case)(case.task, case.inputs, case.proposals, asked)).selected == "a"


@pytest.mark.parametrize("outputs", [["x", "y", "z"], ["x", "x", "y", "y"], [REFUSAL, "x"]])
@both_ways
def test_without_an_aggregator_nobody_is_asked(ask: Ask, outputs: list[Any]) -> None:
    stray = FakeLM("stray", [])
    moa = mixture_of(QA, answers(*outputs), None, strategy="voting")
    with dspy.context(lm=stray):
        pred = ask(moa, question="why?")
    assert (pred.answer, pred.metadata.usage.calls, pred.metadata.failures) == ("x", len(outputs), [])


@pytest.mark.parametrize("number", [2, 3, 5])
def test_a_vote_costs_one_call_at_most_beside_the_proposals(number: int) -> None:
    judge = FakeLM("judge", grouping(*({str(n)} for n in range(number)), best="1"))
    pred = mixture_of(QA, answers(*map(str, range(number))), judge, strategy="voting")(question="why?")
    assert (pred.answer, judge.calls, pred.metadata.usage.calls) == ("1", 1, number + 1)


# Nobody votes.


def test_none_from_all_is_an_answer_where_the_task_allows_it() -> None:
    verdict = vote([None, None], int | None, FakeLM("judge", []))
    assert (verdict.outputs, verdict.tally.winner) == ({"answer": None}, None)
    case = case_of("q -> label: bool | None, why", *({"label": None, "why": why} for why in "xy"))
    assert decide(Voting(), case).outputs == {"label": None, "why": "x"}


@pytest.mark.parametrize(("outputs", "kind"), [([REFUSAL, REFUSAL], str), (["", " "], str), ([float("nan")], float)])
def test_nothing_to_count_is_no_answer(outputs: list[Any], kind: Any) -> None:
    with pytest.raises(Unusable, match=rf"^All {len(outputs)} proposals abstain"):
        vote(outputs, kind)
    with pytest.raises(AggregationFailed) as failed:
        mixture_of(typed(kind), answers(*outputs), None, strategy="voting")(question="why?")
    assert len(failed.value.proposals) == len(outputs)


# Settings that make no sense.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"a": -1}}, "The weight of 'a' is -1"),
        ({"weights": {"a": float("nan")}}, "The weight of 'a' is nan"),
        ({"weights": {"a": float("inf")}}, "The weight of 'a' is inf"),
        ({"tolerance": -0.1}, "The tolerance is -0.1"),
        ({"tolerance": float("nan")}, "The tolerance is nan"),
        ({"fields": []}, r"fields=\[\] names no output fields"),
        ({"fields": "answer"}, "fields='answer' names no output fields"),
    ],
)
def test_settings_that_make_no_count_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Voting(**options)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Voting(weights={"ada": 2}), "the agent 'ada', which there is not, .* Known: m0, m1"),
        (Voting(["anwser"]), "the field 'anwser', which there is not, .* Known: answer"),
    ],
)
def test_names_that_there_are_not_are_refused_when_the_mixture_is_built(strategy: Voting, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mixture_of(QA, answers("x", "y"), None, strategy=strategy)


def test_the_fallback_counts_as_the_strategy_does() -> None:
    case = case_of("q -> n: int, m: int", {"n": 1, "m": 1}, {"n": 2, "m": 2}, {"n": 2, "m": 1})
    assert fall_back(case).selected == "a"
    assert fall_back(case, Voting(["n"])).selected == "b"
    assert fall_back(case, Voting(["m"], weights={"b": 5})).selected == "b"


# Early stop.


class Held(dspy.Module):
    """A proposer that answers when it is let."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.open = threading.Event()
        self.cancelled = False

    def forward(self, question: str) -> dspy.Prediction:
        assert self.open.wait(10)
        return dspy.Prediction(answer=self.answer)

    async def aforward(self, question: str) -> dspy.Prediction:
        try:
            await asyncio.wait_for(asyncio.to_thread(self.open.wait, 10), 10)
        except asyncio.CancelledError:
            self.cancelled = True
            self.open.set()
            raise
        return dspy.Prediction(answer=self.answer)


def held(*outputs: Any) -> list[Agent]:
    return [Agent(program=Held(answer), name=name) for name, answer in zip("uvwxyz", outputs, strict=False)]


@both_ways
def test_a_decided_vote_does_not_wait_for_the_rest(ask: Ask) -> None:
    late = Held(8)
    quick = [proposer(f"provider/m{n}", {"answer": 7}) for n in range(3)]
    moa = MoA("question -> answer: int", [Agent(program=late, name="late"), *quick], strategy=Voting(early_stop=True))
    pred = ask(moa, question="why?")
    assert not late.open.is_set() or late.cancelled
    late.open.set()
    assert (pred.answer, [proposal.id for proposal in pred.proposals]) == (7, ["m0", "m1", "m2"])
    metadata = pred.metadata
    assert (metadata.stopped_early, metadata.agreement, metadata.proposals_asked, metadata.failures) == (True, 1, 4, [])


def test_early_stop_changes_no_winner() -> None:
    case = case_of("q -> n: int", *({"n": n} for n in (7, 8, 7, 7, 8)))
    strategy = Voting(early_stop=True, weights={"b": 2})
    strategy.bind(case.task, list("abcde"))
    everybody = decide(strategy, case).outputs
    for number in range(1, 5):
        here: Sequence[Proposal] = case.proposals[:number]
        asked = {proposal.id: proposal.agent for proposal in here}
        partial = type(case)(case.task, case.inputs, here, asked)
        pending = {id: agent for id, agent in case.asked.items() if id not in asked}
        assert not strategy.is_decided(partial, pending) or decide(strategy, partial).outputs == everybody
