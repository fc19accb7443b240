import json
import os
import subprocess
import sys
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

import dspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from support.cases import ADAPTERS, Block, answers, blocks, proposals_of
from support.rendering import asked

from moa_dspy.rendering import Rendering, group_identical, render, seed_of
from moa_dspy.results import Proposal
from moa_dspy.signatures import synthesis_signature, task_signature


class Color(Enum):
    RED = "red"


class Person(BaseModel):
    name: str
    notes: list[str] = []


class Opaque:
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "<a large table, cut>"


def shown(*outputs: Mapping[str, Any], seed: int = 0, **options: Any) -> Rendering:
    return render(proposals_of(*outputs), seed=seed, **options)


def told(made: Rendering) -> dict[str, str]:
    """What each proposal's answer looks like, by the proposal's id."""
    return {made.labels[label][0].id: block.fields["answer"] for label, block in blocks(made.text).items()}


def test_a_proposal_is_labelled_fenced_and_nameless() -> None:
    [proposal] = proposals_of({"answer": "a\nb", "sure": True}, reasonings=["first\nthen"])
    assert render([proposal], seed=1).text == (
        "Proposal P1:\n«««\nreasoning: first\nthen\nanswer: a\nb\nsure: True\n»»»"
    )


def test_reasoning_is_shown_where_it_exists() -> None:
    made = render(proposals_of(*answers("x", "y"), reasonings=[None, "so"]), seed=0)
    assert {label: list(block.fields) for label, block in blocks(made.text).items()} == {
        label: ["reasoning", "answer"] if group[0].id == "b" else ["answer"] for label, group in made.labels.items()
    }


def test_identical_proposals_are_shown_once_with_their_count() -> None:
    made = shown(*answers("x", "y", "x", "x"))
    counts = {tuple(p.id for p in made.labels[label]): block.given_by for label, block in blocks(made.text).items()}
    assert counts == {("a", "c", "d"): 3, ("b",): 1}


def test_of_identical_proposals_the_first_reasoning_there_is_is_shown() -> None:
    made = render(proposals_of(*answers("x", "x", "x"), reasonings=[None, "because", "other"]), seed=0)
    assert blocks(made.text) == {"P1": Block(3, {"reasoning": "because", "answer": "x"})}


@pytest.mark.parametrize(
    ("a", "b", "alike"),
    [
        pytest.param({"x", "y"}, {"y", "x"}, True, id="sets"),
        pytest.param({"k": 1, "l": 2}, {"l": 2, "k": 1}, True, id="order of keys"),
        pytest.param(Person(name="Ada"), Person(name="Ada"), True, id="models"),
        pytest.param(np.arange(5000), np.arange(5000), True, id="arrays"),
        pytest.param(float("nan"), float("nan"), True, id="NaN"),
        pytest.param(np.arange(5000), np.arange(5000) * (np.arange(5000) != 2500), False, id="inside a long array"),
        pytest.param([1, 2], [2, 1], False, id="lists"),
        pytest.param(1, True, False, id="a number and a bool"),
        pytest.param("1", 1, False, id="a text and a number"),
        pytest.param("Yes", "yes", False, id="case"),
        pytest.param(Opaque(), Opaque(), False, id="what cannot be compared"),
    ],
)
def test_which_outputs_are_identical(a: object, b: object, alike: bool) -> None:
    assert len(group_identical(proposals_of(*answers(a, b)))) == (1 if alike else 2)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        ([], "[]"),
        (Color.RED, "red"),
        (Decimal("1.50"), "1.50"),
        (Person(name="Ada", notes=["one\ntwo"]), '{\n  "name": "Ada",\n  "notes": [\n    "one\ntwo"\n  ]\n}'),
        (["\\nabla", "C:\\new"], '[\n  "\\\\nabla",\n  "C:\\\\new"\n]'),
        (dspy.Image(url="data:image/png;base64,AAAA"), "Image(url=data:image/png;base64,<IMAGE_BASE_64_ENCODED(4)>)"),
        ("\ud800 \u202eabc", "\N{REPLACEMENT CHARACTER} \u202eabc"),
    ],
)
def test_values_are_written_readably(value: object, text: str) -> None:
    assert blocks(shown(*answers(value)).text) == {"P1": Block(1, {"answer": text})}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
def test_every_adapter_shows_the_exhibit_as_it_is(adapter: dspy.Adapter) -> None:
    made = shown({"answer": "one\n\ttwo", "more": ["x\ny", {"k": "\u2028"}]}, {"answer": "[[ ## x ## ]]", "more": []})
    signature = synthesis_signature(task_signature("question -> answer"))
    message = adapter.format(signature, [], {"question": "why?", "proposals": made.text})[-1]["content"]
    request = asked(message)
    assert request is not None and request.inputs == {"question": "why?", "proposals": made.text}
    assert len(blocks(request.inputs["proposals"])) == 2


def test_thirty_proposals_are_thirty_labels() -> None:
    made = shown(*answers(*map(str, range(30))))
    assert list(made.labels) == [f"P{number}" for number in range(1, 31)]
    assert told(made) == {
        proposal.id: proposal.outputs["answer"] for proposal in proposals_of(*answers(*map(str, range(30))))
    }


def test_no_proposals_make_an_empty_exhibit() -> None:
    assert render([], seed=0) == Rendering("", {}, {})


def test_the_order_depends_on_the_seed_alone() -> None:
    orders = {tuple(shown(*answers(*"vwxyz"), seed=seed).order) for seed in range(50)}
    assert len(orders) > 20
    assert shown(*answers(*"vwxyz"), seed=7).order == shown(*answers(*"abcde"), seed=7).order


def test_rotations_turn_the_order_until_it_is_round() -> None:
    order = shown(*answers(*"xyz")).order
    assert [shown(*answers(*"xyz"), rotation=k).order for k in range(4)] == [
        order,
        order[1:] + order[:1],
        order[2:] + order[:2],
        order,
    ]


def test_the_seed_is_that_of_the_values() -> None:
    inputs = {"question": "why?", "tags": {"b", "a"}, "image": dspy.Image(url="https://e.com/x.png")}
    assert seed_of(inputs) == seed_of(dict(reversed(inputs.items())))
    assert seed_of(inputs) != seed_of({**inputs, "question": "why not?"})


def test_the_seed_of_anything_exists() -> None:
    history = dspy.History(messages=[{"question": "q", "answer": "\ud800"}])
    odd = {"a": object(), "b": b"\xff", "c": float("nan"), "d": {frozenset({1}): lambda: 1}, "e": history}
    assert seed_of(odd) == seed_of({**odd, "a": object(), "d": {frozenset({1}): odd["d"][frozenset({1})]}})


ELSEWHERE = """
import dspy
from moa_dspy.results import Proposal
from moa_dspy.rendering import render, seed_of
inputs = {"question": "why?", "tags": set("abcdefgh"), "odd": object()}
made = [Proposal(id=x, agent=x, outputs={"tags": set(x + "qrstuv"), "odd": object()}) for x in "abcdefgh"]
print(render(made, seed=seed_of(inputs)).text)
"""


def test_every_process_shows_the_same() -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    one, two = (process.communicate()[0] for process in started)
    assert one == two and len(blocks(one.strip())) == 8


def test_what_does_not_fit_is_shortened_and_accounted_for() -> None:
    made = render(proposals_of(*answers("x" * 900, "y" * 100, "x" * 900), reasonings=["r" * 300]), seed=0, limit=600)
    lost = 300 + (len("answer: ") + 900) - (600 - len("answer: ") - 100)
    assert made.shortened == {"a": lost, "c": lost}
    assert "[... 300 characters left out ...]" in made.text
    assert told(made)["b"] == "y" * 100


def test_a_very_long_proposal_is_shown_whole_without_a_limit() -> None:
    assert told(shown(*answers("long\n" * 20_000)))["a"] == ("long\n" * 20_000)[:-1]


@settings(deadline=None)
@given(
    st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"])), min_size=1, max_size=8),
    st.integers(0, 2**64),
    st.integers(0, 9),
)
def test_labels_and_proposals_are_one_to_one_whatever_the_text(texts: list[str], seed: int, rotation: int) -> None:
    made = shown(*answers(*texts), seed=seed, rotation=rotation)
    behind = [proposal.id for group in made.labels.values() for proposal in group]
    assert sorted(behind) == [proposal.id for proposal in proposals_of(*answers(*texts))]
    assert list(blocks(made.text)) == list(made.labels) == [f"P{n}" for n in range(1, len(set(texts)) + 1)]
    assert all(block.given_by == len(made.labels[label]) for label, block in blocks(made.text).items())


def test_the_proposals_themselves_are_left_alone() -> None:
    outputs = {"answer": "»»» [[ ## answer ## ]]"}
    [proposal] = next(iter(shown(outputs).labels.values()))
    assert proposal.outputs == outputs


def test_a_proposal_is_json_whatever_it_holds() -> None:
    odd = Proposal(id="a", agent="a", outputs={"x": object(), "y": b"\xff", "z": "\ud800"}, reasoning="\udfff")
    assert json.loads(odd.model_dump_json())["outputs"] == {
        "x": "<object object>",
        "y": "b'\\xff'",
        "z": "\N{REPLACEMENT CHARACTER}",
    }
