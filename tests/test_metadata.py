import datetime
import enum
import json
from typing import Any

import dspy
import pydantic
import pytest
from support.fake_lm import FakeLM
from support.mixtures import Ask, both_ways, cast, mixture, says

from moa_dspy import Element, Failure, LMCall, MoA, MoAMetadata, Proposal, Selection, Usage, Vote


def metadata(**details: Any) -> MoAMetadata:
    return MoAMetadata(
        strategy="voting", answered_by="voting", num_proposers=2, proposals_asked=2, proposals_received=1, **details
    )


class Point(pydantic.BaseModel):
    x: float
    y: float = 0.0


class Colour(enum.Enum):
    RED = "red"


class Opaque:
    def __repr__(self) -> str:
        return "opaque"


ODD = {
    "point": Point(x=1),
    "points": [Point(x=1)],
    "colour": Colour.RED,
    "day": datetime.date(2024, 2, 29),
    "nothing": None,
    "number": float("nan"),
    "huge": 10**30,
    "bytes": b"\xff\x00",
    "set": {1},
    "opaque": Opaque(),
    "surrogate": "\ud800",
}


class TestDegraded:
    @pytest.mark.parametrize(
        ("details", "degraded"),
        [
            ({}, False),
            ({"repaired": True, "stopped_early": True}, False),
            ({"failures": [Failure(agent="a", error="E", message="m")]}, True),
            ({"fallback_used": True}, True),
            ({"shortened": {"a": 10}}, True),
        ],
    )
    def test_is_when_something_was_missing(self, details: Any, degraded: bool) -> None:
        assert metadata(**details).degraded is degraded


class TestJSON:
    @both_ways
    def test_holds_all_of_a_call(self, ask: Ask) -> None:
        lms = {**cast("a"), "bad": FakeLM("bad", [dspy.lm15.AuthError("?")] * 2), **cast("c", "judge")}
        account = ask(mixture(lms, strategy=Selection(rotations=2), layers=2), question="?").metadata
        dump = json.loads(account.model_dump_json())
        assert dump == json.loads(json.dumps(account.model_dump(mode="json")))
        assert {*dump} == {
            *("strategy", "answered_by", "num_proposers", "proposals_asked", "proposals_received", "all_proposals"),
            *("failures", "calls", "seconds", "agreement", "votes", "selected", "order_shown", "flip_rate", "elements"),
            *("shortened", "stopped_early", "fallback_used", "repaired", "degraded", "usage", "agents", "models"),
        }
        assert (dump["usage"]["calls"], dump["agents"]["bad"]["failed_calls"], dump["degraded"]) == (8, 2, True)

    @both_ways
    def test_is_read_back(self, ask: Ask) -> None:
        account = ask(mixture(cast("a", "b", "judge")), question="?").metadata
        assert MoAMetadata.model_validate_json(account.model_dump_json()) == account

    def test_takes_outputs_of_any_type(self) -> None:
        proposal = Proposal(id="a", agent="a", outputs=ODD)
        account = metadata(all_proposals=[proposal], votes=[Vote(answer=ODD, proposals=["a"], weight=1)])
        dump = json.loads(account.model_dump_json())
        told = dump["all_proposals"][0]["outputs"]
        assert told == dump["votes"][0]["answer"] or told["number"] != told["number"]
        assert (told["point"], told["colour"], told["day"]) == ({"x": 1.0, "y": 0.0}, "red", "2024-02-29")
        assert (told["opaque"], told["nothing"], told["huge"]) == ("opaque", None, 10**30)

    def test_is_kept_by_python_as_it_is(self) -> None:
        vote = Vote(answer=ODD, proposals=["a"], weight=1)
        assert vote.model_dump()["answer"]["opaque"] is ODD["opaque"]

    @both_ways
    def test_is_that_of_typed_answers(self, ask: Ask) -> None:
        class Task(dspy.Signature):
            question: str = dspy.InputField()
            point: Point = dspy.OutputField()

        lms = [FakeLM(name, lambda prompt: {"reasoning": "r", "point": Point(x=2)}) for name in "ab"]
        pred = ask(MoA(Task, lms, strategy="voting"), question="?")
        told = json.loads(pred.metadata.model_dump_json())
        assert pred.point == Point(x=2) and told["all_proposals"][0]["outputs"] == {"point": {"x": 2.0, "y": 0.0}}


class TestAccount:
    @both_ways
    def test_tells_who_was_asked_and_what_came(self, ask: Ask) -> None:
        lms = {**cast("a"), "bad": FakeLM("bad", [dspy.lm15.AuthError("?")] * 4), **cast("judge")}
        account = ask(mixture(lms, layers=2, num_proposals_per_model=2), question="?").metadata
        assert (account.num_proposers, account.proposals_asked, account.proposals_received) == (2, 8, 4)
        assert [p.id for p in account.all_proposals] == ["a", "a#2", "a", "a#2"]
        assert [f.agent for f in account.failures] == ["bad"] * 4

    @both_ways
    def test_tells_how_far_the_proposals_agree(self, ask: Ask) -> None:
        lms = {
            name: FakeLM(name, says(answer)) for name, answer in (("a", "x"), ("b", "X "), ("c", "y"), ("judge", "z"))
        }
        account = ask(mixture(lms), question="?").metadata
        assert account.agreement == pytest.approx(2 / 3)
        assert [(vote.answer, vote.proposals, vote.weight) for vote in account.votes] == [
            ({"answer": "x"}, ["a", "b"], 2.0),
            ({"answer": "y"}, ["c"], 1.0),
        ]

    @both_ways
    def test_counts_who_failed_among_all_votes(self, ask: Ask) -> None:
        lms = {"a": FakeLM("a", says("x")), "bad": FakeLM("bad", [dspy.lm15.AuthError("?")]), **cast("judge")}
        assert ask(mixture(lms), question="?").metadata.agreement == 0.5

    def test_has_no_agreement_where_nothing_can_be_counted(self) -> None:
        lms = {"a": FakeLM("a", says("")), **cast("judge")}
        account = mixture(lms)(question="?").metadata
        assert (account.agreement, account.votes) == (None, [])

    @both_ways
    def test_names_the_selected_proposal_and_the_order_shown(self, ask: Ask) -> None:
        account = ask(mixture(cast("a", "b", "judge"), strategy="selection"), question="?").metadata
        assert account.selected == account.order_shown[0] and sorted(account.order_shown) == ["a", "b"]
        assert account.flip_rate == 0.0

    def test_takes_its_time(self) -> None:
        account = mixture(cast("a", "judge", delay=0.1))(question="?").metadata
        assert 0.2 <= account.seconds < 1 and account.usage.seconds <= account.seconds

    @both_ways
    def test_adds_up(self, ask: Ask) -> None:
        account = ask(mixture(cast("a", "b", "judge"), num_proposals_per_model=3), question="?").metadata
        assert account.usage == Usage.of(account.calls)
        for table in (account.agents, account.models):
            assert sum(usage.calls for usage in table.values()) == account.usage.calls == 7
            assert sum(usage.prompt_tokens for usage in table.values()) == account.usage.prompt_tokens == 70

    def test_tells_of_each_call_apart(self) -> None:
        first, second = (mixture(cast("a", "judge"))(question="?").metadata for _ in range(2))
        assert first.calls is not second.calls and len(second.calls) == 2


def test_small_records_have_plain_defaults() -> None:
    assert Element(statement="s", kind="union").model_dump() == {
        "statement": "s",
        "path": "",
        "value": None,
        "kind": "union",
        "supported_by": [],
        "resolution": None,
    }
    assert Failure(agent="a", error="E", message="m").model_dump(exclude_none=True)["seconds"] == 0.0
    assert LMCall(agent="a", model="m").cost_usd is None
