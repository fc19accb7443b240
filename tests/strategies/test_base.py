"""The contract of strategies, where a mixture shows it in no other way: tests/public has the rest."""

from collections.abc import Sequence
from typing import Any

import dspy
import pytest
from dspy.lm15 import ContextLengthError, RateLimitError, ServerError
from support.cases import answers, blocks, case_of, choosing, decide, label_of, mixture_of, request, told
from support.fake_lm import FakeLM
from support.rendering import Style

from moa_dspy import Case, Fusion, Selection, Strategy, Synthesis, Verdict, Voting
from moa_dspy.strategies import Unusable, as_strategy

QA = "question -> answer"
NONSENSE = "I would rather not say."
GOOD = {"reasoning": "so", "answer": "new"}
CHOICE = {"reasoning": "so", "choice": "P1"}
GROUPS = {"reasoning": "so", "groups": [["P1"], ["P2"]], "best": "P1"}
FUSED = {"reasoning": "so", "elements": [], "answer": "z"}


def test_a_strategy_of_ones_own_may_give_up() -> None:
    class Humble(Strategy):
        name = "humble"

        def decide(self, case: Case) -> Verdict:
            raise Unusable("None of them convinces.")

    pred = mixture_of(QA, answers("x", "y", "y"), None, strategy=Humble())(question="why?")
    assert (pred.answer, pred.metadata.fallback_used, pred.metadata.answered_by) == ("y", True, "voting")


def test_a_strategy_given_is_not_the_one_that_is_bound() -> None:
    given = Selection(3)
    strategy = mixture_of(QA, answers("x"), FakeLM("judge", []), strategy=given).strategy
    assert isinstance(strategy, Selection) and strategy.rotations == 3
    assert strategy is not given and not hasattr(given, "select")


def test_a_strategy_has_a_name() -> None:
    with pytest.raises(TypeError, match="Strategy has no name"):
        as_strategy(Strategy())


def test_a_conversation_is_told_to_a_judge_as_it_was() -> None:
    history = dspy.History(messages=[{"question": "q1", "answer": "a1"}, {"question": "q2", "answer": "a2"}])
    task = "history: dspy.History, question -> answer"
    for strategy, reply in ((Selection(), CHOICE), (Voting(), GROUPS), (Fusion(), FUSED)):
        judge = FakeLM("judge", [reply])
        decide(strategy, case_of(task, *answers("x", "y"), history=history), judge)
        assert told(judge)["history"] == "question: q1\nanswer: a1\n\nquestion: q2\nanswer: a2"
        assert [message.role for message in judge.requests[0].messages] == ["user"]
    judge = FakeLM("judge", [GOOD])
    decide(Synthesis(), case_of(task, *answers("x"), history=history), judge)
    assert [message.role for message in judge.requests[0].messages] == ["user", "assistant"] * 2 + ["user"]


# One repair, then the vote.

JSON = dspy.JSONAdapter()
STRICT_CHAT = dspy.ChatAdapter(use_json_adapter_fallback=False)
EVERY_ADAPTER = pytest.mark.parametrize(
    ("adapter", "first", "second"),
    [
        pytest.param(None, "chat", "json", id="default"),
        pytest.param(dspy.ChatAdapter(), "chat", "json", id="chat"),
        pytest.param(STRICT_CHAT, "chat", "chat", id="chat without fallback"),
        pytest.param(JSON, "json", "json", id="json"),
        pytest.param(dspy.XMLAdapter(), "xml", "json", id="xml"),
    ],
)


def styles(lm: FakeLM) -> list[Style]:
    return [request(lm, number).style for number in range(lm.calls)]


@EVERY_ADAPTER
@pytest.mark.parametrize("replies", [[NONSENSE, GOOD], ["  ", "  "]])
def test_nonsense_is_asked_for_again_in_the_plainest_format(
    replies: Sequence[Any], adapter: Any, first: Style, second: Style
) -> None:
    judge = FakeLM("judge", replies)
    with dspy.context(adapter=adapter):
        metadata = mixture_of(QA, answers("x", "y"), judge)(question="why?").metadata
    assert (metadata.fallback_used, styles(judge)) == (GOOD not in replies, [first, second])


@EVERY_ADAPTER
@pytest.mark.parametrize("order", ["nonsense first", "complaint first"])
def test_two_different_things_wrong_are_two_tries_all_the_same(
    order: str, adapter: Any, first: Style, second: Style
) -> None:
    overlap = {"reasoning": "so", "groups": [["P1", "P2"], ["P2"]], "best": "P1"}
    replies: list[Any] = [NONSENSE, overlap] if order == "nonsense first" else [overlap, NONSENSE]
    judge = FakeLM("judge", replies)
    with dspy.context(adapter=adapter):
        pred = mixture_of(QA, answers("x", "y"), judge, strategy="voting")(question="why?")
    assert (pred.answer, pred.metadata.fallback_used, judge.calls) == ("x", True, 2)


@EVERY_ADAPTER
def test_a_passing_error_is_worth_another_try(adapter: Any, first: Style, second: Style) -> None:
    error = RateLimitError("slow down")
    cases: list[tuple[list[Any], bool]] = [
        ([error, GOOD], False),
        ([error, NONSENSE], True),
        ([NONSENSE, error], True),
        ([error, error], True),
    ]
    for replies, used in cases:
        judge = FakeLM("judge", replies)
        with dspy.context(adapter=adapter):
            pred = mixture_of(QA, answers("x"), judge)(question="why?")
        assert (pred.metadata.fallback_used, judge.calls) == (used, 2)


@pytest.mark.usefixtures("cached")
def test_a_good_reply_is_replayed_from_the_cache() -> None:
    judge = FakeLM("judge", [GOOD], cache=True)
    moa = mixture_of(QA, answers("x", "y", "z"), judge)
    assert [moa(question="why?").answer for _ in range(3)] == ["new"] * 3


def test_an_adapter_is_left_as_it_is() -> None:
    adapter = dspy.ChatAdapter()
    with dspy.context(adapter=adapter):
        decide(Synthesis(), case_of(QA, *answers("x")), FakeLM("judge", [ServerError("down"), GOOD]))
    assert adapter.use_json_adapter_fallback


def test_each_rotation_has_its_own_repair() -> None:
    choose = choosing("y")
    judge = FakeLM(
        "judge", lambda prompt: choose(prompt) if "a JSON object in the following order" in prompt else NONSENSE
    )
    verdict = decide(Selection(2), case_of(QA, *answers("x", "y")), judge)
    assert (verdict.outputs, verdict.repaired, judge.calls) == ({"answer": "y"}, True, 4)


# What does not fit the context window.


def narrow(characters: int, reply: Any = GOOD) -> Any:
    """A model that refuses longer prompts."""
    return lambda prompt: ContextLengthError("too long") if len(prompt) > characters else reply


def test_reasoning_is_shortened_before_answers() -> None:
    judge = FakeLM("judge", narrow(4500))
    case = case_of(QA, *answers("x" * 800, "y" * 800))
    thoughts = [p.model_copy(update={"reasoning": "r" * 3000}) for p in case.proposals]
    verdict = decide(Synthesis(), Case(case.task, case.inputs, thoughts, case.asked), judge)
    assert verdict.outputs == {"answer": "new"}
    shown = blocks(told(judge)["proposals"]).values()
    assert sorted(block.fields["answer"] for block in shown) == ["x" * 800, "y" * 800]
    assert all("characters left out" in block.fields["reasoning"] for block in shown)


def test_a_short_prompt_that_is_refused_is_not_tried_again() -> None:
    judge = FakeLM("judge", narrow(10))
    pred = mixture_of(QA, answers("x"), judge)(question="why?")
    assert (pred.metadata.fallback_used, judge.calls) == (True, 1)


def test_a_refusal_is_no_repair() -> None:
    replies = iter([ContextLengthError("too long"), NONSENSE, GOOD])
    judge = FakeLM("judge", lambda prompt: next(replies))
    verdict = decide(Synthesis(), case_of(QA, *answers("x" * 5000)), judge)
    assert (verdict.outputs, verdict.repaired, styles(judge)) == ({"answer": "new"}, True, ["chat", "chat", "json"])


def test_a_refusal_of_the_repair_leaves_one_try() -> None:
    replies = iter([NONSENSE, ContextLengthError("too long"), NONSENSE])
    judge = FakeLM("judge", lambda prompt: next(replies))
    with pytest.raises(Exception, match="failed to parse"):
        decide(Synthesis(), case_of(QA, *answers("x" * 5000)), judge)
    assert styles(judge) == ["chat", "json", "chat"]


@pytest.mark.parametrize("settings", [{}, {"max_tokens": 8192}])
def test_an_answer_may_not_take_the_whole_window(settings: dict[str, Any]) -> None:
    judge = FakeLM("openai/gpt-4", [GOOD], **settings)
    decide(Synthesis(), case_of(QA, *answers("x" * 9_000)), judge)
    assert len(told(judge)["proposals"]) > 9_000


@pytest.mark.parametrize("lm", ["nobody/knows", "openai/gpt-4"])
def test_a_hundred_thousand_characters_go_through(lm: str) -> None:
    judge = FakeLM(lm, choosing_shortened)
    verdict = decide(Selection(), case_of(QA, *answers("é\u2028" * 50_000, "y")), judge)
    assert verdict.outputs == {"answer": "é\u2028" * 50_000}


def choosing_shortened(prompt: str) -> dict[str, Any]:
    return {"reasoning": "so", "choice": "P1" if label_of(prompt, "y") == "P2" else "P2"}


def test_further_inputs_take_their_part_of_a_known_window() -> None:
    judge = FakeLM("openai/gpt-4", [FUSED])
    outputs = [{"tags": ["t" * 9_000], "answer": letter * 9_000} for letter in "xy"]
    decide(Fusion(), case_of("question -> tags: list[str], answer", *outputs), judge)
    assert len(told(judge)["settled"]) > 9_000
    assert len(judge.prompts[0]) < 16_000
