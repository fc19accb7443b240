"""Recordings as data: saved, imported, replayed."""

import json
from pathlib import Path
from typing import Any

import dspy
import pandas
import pytest
from pydantic import BaseModel
from support.fake_lm import FakeLM
from support.mixtures import QA, calls, mixture, says

from moa_dspy import Agent, AggregationFailed, MoA, Recording, Voting, record, replay

ASKED = [{"question": "one", "answer": "1"}, {"question": "two", "answer": "2"}]
TABLE: dict[str, list[Any]] = {"a": ["1", "2"], "b": ["1", None]}


def agents(recording: Recording) -> dict[str, list[Any]]:
    return {
        agent: [next((p.outputs["answer"] for p in row.proposals if p.agent == agent), None) for row in recording]
        for agent in recording.agents
    }


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    lms = {"a": FakeLM("a", says("1")), "b": FakeLM("b", says("2")), "judge": FakeLM("judge", says("3"))}
    recording = record(mixture(lms), ASKED, strategies=["synthesis"])
    recording.save(tmp_path / "r.jsonl")
    loaded = Recording.load(tmp_path / "r.jsonl")
    assert list(loaded) == list(recording) and loaded.usage == recording.usage and len(loaded[1:]) == 1
    assert repr(loaded) == "Recording(2 questions, agents a, b)"
    (tmp_path / "r.jsonl").chmod(0o600)
    recording.save(tmp_path / "r.jsonl")
    assert json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])["gold"] == {"answer": "1"}


def test_a_frame_has_a_line_per_question() -> None:
    lms = {"a": FakeLM("a", says("1")), "b": FakeLM("b", [ValueError("x")] * 2), "judge": FakeLM("judge", says("3"))}
    frame = record(mixture(lms), ASKED, strategies=["synthesis"], concurrency=1).to_pandas()
    columns = ["question", "gold_answer", "proposal_a", "verdict_synthesis", "calls", "prompt_tokens", "cost_usd"]
    assert frame[columns].values.tolist() == [["one", "1", "1", "3", 3, 20, None], ["two", "2", "1", "3", 3, 20, None]]


def files(table: dict[str, list[Any]], folder: Path) -> list[Any]:
    frame = pandas.DataFrame(table)
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_csv(folder / "t.tsv", index=False, sep="\t")
    frame.to_json(folder / "t.jsonl", orient="records", lines=True)
    return [table, frame, folder / "t.csv", str(folder / "t.tsv"), folder / "t.jsonl"]


@pytest.mark.parametrize("number", range(5), ids=["dict", "frame", "csv", "tsv", "jsonl"])
@pytest.mark.parametrize(
    "table",
    [
        TABLE,
        {"a": ["007", "1e5"], "b": ["NA", "None"]},
        {"a": ["2024-01-02", "true"], "b": ["", "x"]},
    ],
)
def test_answers_are_imported_as_they_were_written(table: dict[str, list[Any]], number: int, tmp_path: Path) -> None:
    recording = Recording.from_answers(files(table, tmp_path)[number], ASKED)
    is_text = number in (2, 3)
    assert agents(recording) == {
        name: [None if is_text and answer == "" else answer for answer in column] for name, column in table.items()
    }
    assert recording.usage.calls == 0 and recording[0].gold == {"answer": "1"}


class Person(BaseModel):
    name: str
    age: int


class People(dspy.Signature):
    text: str = dspy.InputField()
    people: list[Person] = dspy.OutputField()
    ok: bool = dspy.OutputField()


def test_answers_of_several_typed_outputs_are_imported(tmp_path: Path) -> None:
    answer = {"people": [{"name": "Ann", "age": 3}], "ok": True}
    (tmp_path / "t.csv").write_text('a,b\n"' + json.dumps(answer).replace('"', '""') + '",\n')
    for table in ({"a": [answer], "b": [None]}, tmp_path / "t.csv"):
        recording = Recording.from_answers(table, [{"text": "t"}], People)
        moa = replay(MoA(People, [Agent(FakeLM(name, []), name=name) for name in "ab"], strategy="voting"), recording)
        assert moa(text="t").people == [Person(name="Ann", age=3)]
    with pytest.raises(ValueError, match=r"answer of a, example 1 is no mapping of the outputs people, ok: 'x'"):
        Recording.from_answers({"a": ["x"]}, [{"text": "t"}], People)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": ["1"]}, "a has 1 answers and there are 2 examples"),
        ({"a": ["1", "2", "3"]}, "a has 3 answers"),
        ({}, "maps agents to their answers"),
        ({"gpt-5": ["1", "2"], "x/gpt-5": ["1", "2"]}, "Two columns are the agent 'gpt_5'"),
        ({"a": "12"}, "list of answers"),
        (["1", "2"], "maps agents to their answers"),
    ],
)
def test_a_table_that_does_not_match_is_refused(table: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Recording.from_answers(table, ASKED)


def test_models_are_named_as_a_mixture_names_its_agents(tmp_path: Path) -> None:
    recording = Recording.from_answers({"openai/gpt-5-mini": ["1", "2"], "Mine": ["1", "2"]}, ASKED)
    assert recording.agents == [Agent("openai/gpt-5-mini").name, "Mine"]
    (tmp_path / "t.jsonl").write_text('{"a": "1"}\n{"a"\n')
    with pytest.raises(ValueError, match=r"Line 2 of .* is no row of answers: this is no JSON"):
        Recording.from_answers(tmp_path / "t.jsonl", ASKED)


def recorded() -> tuple[MoA, Recording, dict[str, FakeLM]]:
    lms = {"a": FakeLM("a", says("1")), "b": FakeLM("b", says("2")), "judge": FakeLM("judge", says("3"))}
    moa = mixture(lms)
    return moa, record(moa, ASKED, strategies=["synthesis"]), lms


def test_a_replayed_mixture_asks_nobody() -> None:
    moa, recording, lms = recorded()
    before = calls(lms)
    prediction = replay(moa, recording)(question="one")
    assert (prediction.answer, prediction.metadata.usage.calls) == ("3", 0)
    assert [proposal.outputs for proposal in prediction.proposals] == [{"answer": "1"}, {"answer": "2"}]
    voting = MoA(QA, moa.panels[0].agents, strategy=Voting(weights={"b": 2}))
    assert replay(voting, recording)(question="two").answer == "2" and calls(lms) == before
    assert moa(question="one").answer == "3" and calls(lms)["a"] == before["a"] + 1


def test_the_aggregator_may_be_asked_on_recorded_proposals() -> None:
    moa, recording, lms = recorded()
    selection = MoA(QA, moa.panels[0].agents, lms["judge"], strategy="selection")
    prediction = replay(selection, recording, ask_aggregator=True)(question="one")
    assert prediction.answer in ("1", "2") and calls(lms) == {"a": 2, "b": 2, "judge": 3}
    with pytest.raises(AggregationFailed, match="not recorded; with ask_aggregator=True it is asked"):
        replay(MoA(QA, moa.panels[0].agents, lms["judge"], "selection", limits={"on_degraded": "raise"}), recording)(
            question="one"
        )


def test_the_answers_of_a_whole_mixture_are_replayed() -> None:
    moa, _, lms = recorded()
    recording = record(moa, ASKED)
    before = calls(lms)
    assert replay(moa, recording)(question="two").answer == "3" and calls(lms) == before


def test_a_vote_that_was_stopped_early_is_replayed() -> None:
    slow = FakeLM("c", says("2"), delay=0.5)
    lms = [FakeLM("a", says("1")), FakeLM("b", says("1")), slow]
    moa = MoA(QA, lms, strategy=Voting(early_stop=True))
    recording = record(moa, ASKED[:1])
    assert recording[0].stopped_early and replay(moa, recording)(question="one").answer == "1"


@pytest.mark.parametrize(
    ("task", "inputs", "message"),
    [
        (QA, {"question": "three"}, "This question is not in the recording"),
        ("question -> label", {"question": "one"}, "of another task: its outputs lack label"),
    ],
)
def test_what_is_not_recorded_is_refused(task: str, inputs: Any, message: str) -> None:
    _, recording, lms = recorded()
    moa = MoA(task, [lms["a"], lms["b"]], strategy="voting")
    with pytest.raises(ValueError, match=message):
        replay(moa, recording)(**inputs)
    with pytest.raises(ValueError, match=r"holds no proposal of c \(it has a, b\)"):
        replay(MoA(QA, [lms["a"], FakeLM("c", [])], strategy="voting"), recording)(question="one")


def test_a_replayed_mixture_works_under_evaluate_and_deepcopy() -> None:
    moa, recording, lms = recorded()
    before = calls(lms)
    devset = [dspy.Example(row).with_inputs("question") for row in ASKED]

    def metric(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        return bool(example.answer == prediction.answer)

    replayed = replay(MoA(QA, moa.panels[0].agents, strategy=Voting(weights={"b": 2})), recording).deepcopy()
    assert dspy.Evaluate(devset=devset, metric=metric, display_progress=False)(replayed).score == 50
    assert calls(lms) == before
