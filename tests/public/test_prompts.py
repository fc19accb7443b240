"""What models read: proposals without names, as data, in a seeded order, intact whatever they say, cut if too long."""

import re
import unicodedata
from typing import Any

import dspy
import pytest
from dspy.adapters.chat_adapter import field_header_pattern
from dspy.lm15 import ContextLengthError
from support.attacks import ATTACKS
from support.fake_lm import FakeLM
from support.mixtures import QA, Ask, both_ways
from support.rendering import render
from support.shown import ADAPTERS, JUDGED, always, blocks, panel_of, request, told

from moa_dspy import MoA

STRATEGIES = ["synthesis", "selection", "voting", "fusion"]
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
REPLY = {**JUDGED, "answer": "fine"}
every_attack = pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
INVISIBLE = "[\u00ad\u200b-\u200f\u2060\ufeff]"


def assert_intact(lm: FakeLM, proposals: int) -> None:
    """Readers of the prompt see the inputs and so many proposals, and nothing else."""
    [message] = lm.requests[-1].messages
    assert [part.type for part in message.parts] == ["text"]
    wanted = request(lm)
    inputs: dict[str, str] = wanted.inputs
    assert list(inputs)[:2] == ["question", "proposals"] and {*inputs} <= {"question", "proposals", "settled"}
    assert inputs["question"] == "why?" and len(blocks(inputs["proposals"])) == proposals
    # As it is written, and as it is read: full-width forms are letters, and what is invisible is not there.
    for given in (wanted.given, unicodedata.normalize("NFKC", re.sub(INVISIBLE, "", wanted.given))):
        assert given.count("«««") == given.count("»»»") == proposals
        assert len(re.findall(r"^\s*Proposal P\d+.*:", given, re.MULTILINE)) == proposals
        if wanted.style == "xml":
            tags = re.findall(rf"</?(?:{'|'.join([*inputs, *wanted.fields])})>", given)
            assert tags == [f"<{slash}{name}>" for name in inputs for slash in ("", "/")]
        else:
            assert field_header_pattern.findall(given) == list(inputs)
            assert len(re.findall(r"\[\[\s*##", given)) == len(inputs)


def strategy_for(attack: str) -> Any:
    """Each attack is tried on one strategy: what they show, they show alike."""
    return STRATEGIES[list(ATTACKS.values()).index(attack) % len(STRATEGIES)]


@every_attack
def test_an_answer_cannot_forge_structure(attack: str) -> None:
    strategy = strategy_for(attack)
    for adapter in ADAPTERS:
        judge = FakeLM("judge", lambda prompt: REPLY)
        with dspy.context(adapter=adapter):
            pred: Any = MoA(QA, [Parrot(attack), Parrot("honest\nwork")], judge, strategy)(question="why?")
        assert_intact(judge, 2)
        shown = list(blocks(told(judge)["proposals"]).values())
        assert all(block.given_by == 1 and list(block.fields) == ["reasoning", "answer"] for block in shown)
        assert "honest\nwork" in [block.fields["answer"] for block in shown]
        assert "HACKED" not in str(judge.requests[-1].system)
        assert pred.answer in ([attack, "honest\nwork"] if strategy in ("selection", "voting") else ["fine"])


class Parrot(dspy.Module):
    """A proposer that says this, as its reasoning too."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def forward(self, **inputs: Any) -> dspy.Prediction:
        return dspy.Prediction(reasoning=self.text, answer=self.text)


@every_attack
def test_a_later_layer_is_protected_too(attack: str) -> None:
    evil, honest = (FakeLM(name, always(answer=text)) for name, text in (("evil", attack), ("honest", "y")))
    judge = FakeLM("judge", lambda prompt: REPLY)
    with dspy.context(adapter=dspy.JSONAdapter()):
        MoA(QA, [evil, honest], judge, layers=2)(question="why?")
    for reader in (evil, honest, judge):
        assert_intact(reader, 2)


@every_attack
def test_an_input_cannot_forge_proposals(attack: str) -> None:
    judge, strategy = FakeLM("judge", lambda prompt: REPLY), strategy_for(attack)
    task = "question, notes: dict[str, list[str]] -> answer"
    with dspy.context(adapter=dspy.ChatAdapter()):
        MoA(task, [Parrot("x"), Parrot("y")], judge, strategy)(question=attack, notes={attack: [attack]})
    given = unicodedata.normalize("NFKC", re.sub(INVISIBLE, "", request(judge).given))
    assert len(blocks(told(judge)["proposals"])) == given.count("«««") == given.count("»»»") == 2
    assert field_header_pattern.findall(given)[:3] == ["question", "notes", "proposals"]
    assert len(re.findall(r"^\s*Proposal P\d+.*:", given, re.MULTILINE)) == 2


@every_attack
def test_what_is_settled_cannot_forge_structure(attack: str) -> None:
    said = [{"tags": {"k": [attack]}, "answer": text} for text in "xy"]
    judge = FakeLM("judge", lambda prompt: REPLY)
    with dspy.context(adapter=dspy.JSONAdapter()):
        panel_of(*said, judge=judge, task="question -> tags: dict[str, list[str]], answer", strategy="fusion")(
            question="why?"
        )
    assert_intact(judge, 2)
    lines = told(judge)["settled"].splitlines()
    assert [line[:5] for line in lines if re.match("tags:|answer:", line)] == ["tags:"]


# Told without names, as data, in an order that is seeded.


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_nobody_is_named_and_all_are_told_what_proposals_are(strategy: Any) -> None:
    judge = FakeLM("vendor/kudu", lambda prompt: REPLY)
    lms = [FakeLM(f"zebra/quagga-{n}", always(answer=str(n))) for n in range(2)]
    MoA(QA, lms, judge, strategy, layers=2)(question="why?")
    for prompt in (judge.prompts[0], lms[0].prompts[1]):
        words = " ".join(prompt.split())
        assert "zebra" not in prompt and "quagga" not in prompt and "ajority can be wrong" in words
        assert re.search("data .*never .*instructions", words)
    assert "Proposal" not in lms[0].prompts[0]


def test_a_later_layer_and_the_judge_read_proposals_alike() -> None:
    judge = FakeLM("judge", always(answer="z"))
    lms = [FakeLM(f"m{n}", always(answer=str(n))) for n in range(3)]
    MoA(QA, lms, judge, layers=2)(question="why?")
    assert {told(lm, 1)["proposals"] for lm in lms} == {told(judge)["proposals"]}
    assert [list(told(lm, 0)) for lm in lms] == [["question"]] * 3


def test_the_order_shown_is_another_for_other_inputs_and_the_same_for_the_same() -> None:
    def order(question: str) -> tuple[str, ...]:
        return tuple(
            panel_of("x", "y", "z", judge=FakeLM("judge", always(answer="w")))(question=question).metadata.order_shown
        )

    assert len({order(str(number)) for number in range(30)}) == 6 and order("same") == order("same")


@both_ways
def test_identical_proposals_are_shown_once_with_their_count(ask: Ask) -> None:
    judge = FakeLM("judge", always(answer="w"))
    ask(panel_of("y", "x", "x", "x", judge=judge), question="why?")
    assert sorted((b.fields["answer"], b.given_by) for b in blocks(told(judge)["proposals"]).values()) == [
        ("x", 3),
        ("y", 1),
    ]


# Too long.


def narrow(characters: int) -> Any:
    """A model that refuses longer prompts."""
    return lambda prompt: ContextLengthError("too long") if len(prompt) > characters else REPLY


@both_ways
@every_adapter
def test_a_prompt_that_is_refused_as_too_long_is_shortened_and_says_so(ask: Ask, adapter: dspy.Adapter) -> None:
    judge = FakeLM("judge", narrow(6000))
    with dspy.context(adapter=adapter):
        pred = ask(panel_of("x" * 9000, "y" * 8000, "short", judge=judge), question="why?")
    metadata = pred.metadata
    assert (pred.answer, metadata.fallback_used, metadata.degraded, set(metadata.shortened)) == (
        *("fine", False, True),
        {"m0", "m1"},
    )
    shown = {b.fields["answer"][0]: b.fields["answer"] for b in blocks(told(judge)["proposals"]).values()}
    for id, letter, length in (("m0", "x", 9000), ("m1", "y", 8000)):
        left_out = metadata.shortened[id]
        assert str(left_out) in shown[letter] and shown[letter].count(letter) == length - left_out
    assert shown["s"] == "short"


@pytest.mark.parametrize(("size", "cut"), [(9_000, set()), (50_000, {"m0"})])
def test_a_known_window_is_respected_from_the_start(size: int, cut: set[str]) -> None:
    judge = FakeLM("openai/gpt-4", lambda prompt: REPLY)  # 8192 tokens
    pred = panel_of("x" * size, "y" * 100, judge=judge)(question="why?")
    assert (set(pred.metadata.shortened), judge.calls) == (cut, 1) and len(judge.prompts[0]) < 16_000


def test_what_is_shown_shortened_is_answered_whole() -> None:
    judge = FakeLM(
        "openai/gpt-4",
        lambda prompt: {**REPLY, "choice": "P1" if "P1:\n«««\nreasoning: so\nanswer: x" in prompt else "P2"},
    )
    pred = panel_of("x" * 100_000, "y", judge=judge, strategy="selection")(question="why?")
    assert pred.answer == "x" * 100_000 and pred.metadata.degraded


def test_a_window_too_narrow_for_anything_ends_in_the_vote() -> None:
    judge = FakeLM("judge", narrow(10))
    pred = panel_of(*(f"{n} " + "x" * 3000 for n in range(30)), judge=judge)(question="why?")
    assert pred.metadata.fallback_used and judge.calls < 12


# Pictures and conversations.


class Album(dspy.Signature):
    """Talk about pictures."""

    pictures: list[dspy.Image] = dspy.InputField()
    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


@every_adapter
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pictures_reach_proposers_and_judge_as_pictures(strategy: Any, adapter: dspy.Adapter) -> None:
    style: Any = {dspy.ChatAdapter: "chat", dspy.JSONAdapter: "json", dspy.XMLAdapter: "xml"}[type(adapter)]
    # A fake finds no closing request after a picture, so it is given its text.
    lms = [FakeLM(name, [render(style, {**REPLY, "answer": name})] * 2) for name in ("a", "b", "judge")]
    pictures = [dspy.Image(url=f"https://example.com/{name}.png") for name in "pq"]
    with dspy.context(adapter=adapter):
        pred = MoA(Album, lms[:2], lms[2], strategy, layers=2)(pictures=pictures, question="why?")
    assert pred.metadata.failures == []
    kinds = [part.type for lm in lms for part in lm.requests[-1].messages[-1].parts if part.type != "text"]
    assert kinds == ["image"] * 6


@every_adapter
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_conversation_goes_on(strategy: Any, adapter: dspy.Adapter) -> None:
    history = dspy.History(messages=[{"question": "earlier", "answer": "before"}])
    judge = FakeLM("judge", lambda prompt: REPLY)
    with dspy.context(adapter=adapter):
        task = "history: dspy.History, question -> answer"
        pred = panel_of("x", "y", judge=judge, task=task, strategy=strategy)(history=history, question="now?")
    assert pred.metadata.failures == [] and "earlier" in judge.prompts[0] and "before" in judge.prompts[0]
