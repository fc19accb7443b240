"""Pickles hold no secret; copies in the process share the LMs as they are."""

import copy
import pickle
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dspy
import pytest
from support.mixtures import QA, cast, mixture

from moa_dspy import Agent, MoA, Panel
from moa_dspy.signatures import task_signature

SECRET = "planted-" + "s3cret"


class OwnLMs(dspy.Module):
    """A program that brings LMs, in more than one place."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought(QA)
        self.answer.set_lm(lm)
        self.lms = {"big": [lm]}


class Connection:
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("open")


class Fixed(OwnLMs):
    """A program of which DSPy's copy shares the predictor."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        super().__init__(lm)
        self.parts = [self.answer, Connection()]
        del self.answer


class Legacy(dspy.BaseLM):
    """An LM of the old kind, with its key on itself."""

    def __init__(self, model: str, token: str) -> None:
        super().__init__(model)
        self._token = token


def telling() -> dspy.LM:
    lm = dspy.LM("openai/a", api_key=SECRET, extra_headers={"X": SECRET}, extra_body={"auth": SECRET}, user="me")
    lm.history.append({"kwargs": {"headers": SECRET}})
    return lm


def pickled(module: Any) -> Any:
    data = cloudpickle.dumps(module)
    assert SECRET.encode() not in data
    return pickle.loads(data)


def test_a_mixture() -> None:
    lm = telling()
    moa = MoA(QA, [lm, OwnLMs(lm), Agent("openai/b", api_key=SECRET)], lm)
    back = pickled(moa)
    assert [agent.lm and agent.lm.kwargs for agent in back.agents] == [
        {"temperature": None, "max_tokens": None, "extra_body": {}, "user": "me"},
        None,
        {"temperature": None, "max_tokens": None},
        {"temperature": None, "max_tokens": None, "extra_body": {}, "user": "me"},
    ]
    assert back.proposers.ownlms.program.lms["big"][0] is back.proposers.ownlms.program.answer.predict.lm


def test_a_history_holds_the_headers_of_its_calls() -> None:
    lm = dspy.LM("openai/a")
    lm.history.append({"kwargs": {"headers": {"X": SECRET}}})
    moa = MoA(QA, [lm], strategy="voting")
    assert (pickled(moa).agents[0].lm.history, len(lm.history)) == ([], 1)


def test_the_original_keeps_its_keys() -> None:
    lm = telling()
    moa: Any = MoA(QA, [lm, OwnLMs(lm)], lm)
    pickled(moa)
    assert [agent.lm for agent in moa.agents] == [lm, None, lm]
    assert moa.proposers.ownlms.program.answer.predict.lm is lm and moa.proposers.ownlms.program.lms == {"big": [lm]}
    assert (lm.kwargs["api_key"], len(lm.history)) == (SECRET, 1)


def test_mail_that_has_not_been_taken() -> None:
    moa = MoA(QA, ["openai/a", "openai/b"], "openai/judge")
    moa.set_lm(telling())
    back = pickled(moa)
    assert back.proposers.a.program is back.proposers.b.program is back.proposers.shared
    back.get_lm()  # takes it
    kept: Any = {"temperature": None, "max_tokens": None, "extra_body": {}, "user": "me"}
    assert [agent.lm.kwargs for agent in back.agents] == [kept] * 3


@pytest.mark.parametrize(
    "module",
    [
        lambda: Agent(telling(), dspy.Predict(QA)),
        lambda: Agent(program=OwnLMs(telling())),
        lambda: Panel(task_signature(QA), [Agent(telling())]),
        lambda: MoA(QA, [Agent(program=MoA(QA, [telling()], telling()), name="inner")], telling()),
        lambda: MoA(QA, [Legacy("mine/a", SECRET)], strategy="voting"),
    ],
    ids=["agent", "program", "panel", "nested", "legacy LM"],
)
def test_its_parts(module: Any) -> None:
    assert type(pickled(module())) is type(module())


def test_a_checked_key_is_no_leak() -> None:
    moa = MoA(QA, [telling()], strategy="voting")
    moa.agents[0].check_key()
    pickled(moa)


def test_a_program_that_cannot_be_copied_is_refused_and_keeps_its_keys() -> None:
    lm = telling()
    moa: Any = MoA(QA, [Agent(program=Fixed(lm), name="fixed")], strategy="voting")
    with pytest.raises(TypeError, match="cannot be left out of a pickle"):
        pickled(moa)
    assert moa.proposers.fixed.program.parts[0].predict.lm is lm and lm.kwargs["api_key"] == SECRET


def test_what_tells_nothing_is_pickled_as_it_is() -> None:
    moa = MoA(QA, ["openai/a", "openai/b"], "openai/judge")
    state = moa.__getstate__()
    assert state["proposers"] is moa.proposers


def test_the_whole_program(tmp_path: Path) -> None:
    lms = cast("a", "judge")
    moa = mixture(lms)
    moa.save(tmp_path / "program", save_program=True)
    assert dspy.load(str(tmp_path / "program"), allow_pickle=True)(question="?").answer == "judge"


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda moa: moa.deepcopy()], ids=["copy", "deep", "dspy"])
def test_copies_share_the_lms(copied: Any) -> None:
    lm = telling()
    moa = MoA(QA, [lm, Agent(program=OwnLMs(lm))], lm)
    assert [agent.lm for agent in copied(moa).agents] == [lm, None, lm]
    assert lm.kwargs["api_key"] == SECRET
