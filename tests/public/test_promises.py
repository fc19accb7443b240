"""What `docs/promises.md` promises, line by line; its table is the matrix of faults, over real sockets."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.faults import BACKENDS, FAULTS, PLACES, STRATEGIES, happens, read_table, run_cell
from support.mixtures import Ask, Gives, both_ways, cast, in_task, mixture, says, sync
from support.openai_server import OpenAIServer, Reply
from support.shown import JUDGED, always, panel_of

from moa_dspy import Agent, MoA, MoAMetadata

ROOT = Path(__file__).parents[2]
TABLE = read_table()
CELLS = [
    (fault, place, *how)
    for fault, place in product(FAULTS, PLACES)
    if happens(fault, place)
    for how in product(STRATEGIES, BACKENDS, (sync, in_task))
]
OF = {fault: [cell for cell in CELLS if cell[0] == fault] for fault in FAULTS}
# Each fault once; a step that is prime to their number meets all places, strategies, backends and ways.
SOME = [OF[fault][37 * number % len(OF[fault])] for number, fault in enumerate(FAULTS)]


def check(fault: str, place: str, strategy: str, backend: str, ask: Ask) -> None:
    outcome = run_cell(fault, place, strategy, backend, ask)
    assert outcome.wrong == [] and outcome.says == TABLE[fault][place]


@pytest.mark.parametrize(("fault", "place", "strategy", "backend", "ask"), SOME)
def test_a_fault_ends_as_the_page_says(fault: str, place: str, strategy: str, backend: str, ask: Ask) -> None:
    check(fault, place, strategy, backend, ask)


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "place", "strategy", "backend", "ask"), CELLS)
def test_every_fault_ends_as_the_page_says(fault: str, place: str, strategy: str, backend: str, ask: Ask) -> None:
    check(fault, place, strategy, backend, ask)


def test_the_representative_meets_all() -> None:
    assert [{*met} for met in zip(*SOME, strict=True)] == [
        {*FAULTS},
        {*PLACES},
        {*STRATEGIES},
        {*BACKENDS},
        {sync, in_task},
    ]


def test_every_promise_names_a_test_that_is_there() -> None:
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    promises, named = re.findall(r"^- \*\*", page, re.MULTILINE), re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(named) >= len(promises) > 0
    assert [name for file, name in named if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")] == []


@both_ways
@pytest.mark.parametrize("no_history", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_call_says_why_it_ended(ask: Ask, backend: str, no_history: bool) -> None:
    with OpenAIServer(lambda request: "[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\nx") as server:
        lm = dspy.LM("openai/gpt-4o", api_base=server.url, api_key="any", cache=False, engine=backend)
        with dspy.context(disable_history=no_history):
            calls = ask(MoA("question -> answer", [lm], lm), question="?").metadata.calls
    assert [call.finish_reason for call in calls] == ["stop", "stop"] and all(call.cost_usd for call in calls)
    assert len(lm.history) == (0 if no_history else 2)


@both_ways
def test_a_cut_proposal_is_asked_for_once_more(ask: Ask) -> None:
    replies = iter([Reply("[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\n10", finish_reason="length")] * 3)
    whole = "[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\n1000"
    with OpenAIServer(lambda request: next(replies, whole)) as server:
        lm = dspy.LM("openai/gpt-4o", api_base=server.url, api_key="any", temperature=0)
        moa = MoA("question -> answer", [lm], strategy="voting")
        cut, mended = ask(moa, question="a"), ask(moa, question="b")
    assert (cut.answer, cut.proposals[0].cut_by, cut.metadata.degraded, len(cut.metadata.calls)) == (
        "10",
        "length",
        True,
        2,
    )
    assert (mended.answer, mended.proposals[0].cut_by, mended.metadata.degraded) == ("1000", None, False)
    assert [request.body["temperature"] for request in server.requests] == [0, 1, 0, 1]


@both_ways
def test_a_judge_refuses_only_what_a_proposer_refused(ask: Ask) -> None:
    no = "I'm sorry, but I can't help with that."
    judge = FakeLM("judge", always(answer=no))
    alone = ask(panel_of("x", "y", "y", judge=judge), question="?")
    assert (alone.answer, alone.metadata.fallback_used, judge.calls) == ("y", True, 2)
    agreed = ask(panel_of("x", no, judge=judge), question="?")
    assert (agreed.answer, agreed.metadata.degraded) == (no, False)


@both_ways
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_null_is_no_answer_and_the_word_none_is_one(ask: Ask, strategy: Any) -> None:
    null, word = '{"reasoning": "r", "answer": null}', '{"reasoning": "r", "answer": "None"}'
    lms = [FakeLM("a", [null]), FakeLM("b", [word]), FakeLM("c", [null])]
    with dspy.context(adapter=dspy.JSONAdapter()):
        pred = ask(MoA("question -> answer", lms, FakeLM("judge", always(answer="None")), strategy), question="?")
    assert ([p.agent for p in pred.proposals], pred.answer) == (["b"], "None")
    assert [failure.error for failure in pred.metadata.failures] == ["IncompleteProposal"] * 2
    optional = MoA("question -> answer: str | None", [FakeLM("a", [null])], strategy="voting")
    with dspy.context(adapter=dspy.JSONAdapter()):
        assert ask(optional, question="?").answer is None


class Mute:
    def __repr__(self) -> str:
        raise RuntimeError("mute")


class Lone:
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("compared")

    __hash__ = object.__hash__


def nested(levels: int) -> Any:
    return [nested(levels - 1)] if levels else 1


def circle() -> list[Any]:
    held: list[Any] = []
    held += [held, held]
    return held


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("output", "fails"),
    [
        (nested(400), True),
        (circle(), True),
        (Mute(), True),
        ([{"id": Mute()}], True),
        (10**6000, True),
        (Lone(), False),
        ([{"id": 1, "name": Lone()}], False),
        ({1: 2, "a": {None, "b", 3}}, False),
    ],
    ids=["deep", "circle", "mute", "inside", "huge", "lone", "lone inside", "mixed keys"],
)
def test_an_output_that_is_of_no_use_fails_its_proposal_alone(strategy: Any, output: Any, fails: bool) -> None:
    given = [output, [1, 2], [1, 3]]
    programs = [Gives(dspy.Prediction(answer=one)) for one in given]
    agents = [Agent(program=program, name=name) for program, name in zip(programs, "abc", strict=True)]
    judge = FakeLM("judge", lambda prompt: {**JUDGED, "groups": [["P1"]], "answer": "[1, 2]"})
    metadata = MoA("question -> answer: Any", agents, judge, strategy)(question="?").metadata
    assert [failure.agent for failure in metadata.failures] == (["a"] if fails else [])
    assert metadata.agreement and MoAMetadata.model_validate_json(metadata.model_dump_json()).num_proposers == 3


@both_ways
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_later_layer_that_fails_leaves_the_last_full_one(ask: Ask, strategy: Any) -> None:
    lms = {name: FakeLM(name, [says(name)(""), dspy.lm15.ServerError("down")]) for name in "ab"}
    moa = mixture({**lms, "judge": FakeLM("judge", always(answer="a"))}, layers=2, strategy=strategy)
    metadata = ask(moa, question="?").metadata
    assert (metadata.layer, metadata.degraded, metadata.fallback_used) == (1, True, False)
    whole = ask(mixture(cast("a", "b", "judge"), layers=2), question="?").metadata
    assert (whole.layer, whole.degraded) == (2, False)
