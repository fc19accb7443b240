"""What a mixture is built of, what it answers, and how many calls that takes."""

import copy
import random
from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, Ask, both_ways, calls, cast, every_way, in_task, mixture, says, sync
from support.shown import always

from moa_dspy import Agent, Limits, MoA, MoAMetadata, MoAPrediction, Panel, Selection, Voting

STRATEGIES = ["synthesis", "selection", "voting", "fusion"]
ANYTHING: Any = object()


class Person(BaseModel):
    name: str
    age: int


class Task(dspy.Signature):
    """Describe them."""

    question: str = dspy.InputField()
    style: str = dspy.InputField(default="plain")
    number: float = dspy.OutputField()
    kind: Literal["x", "y"] = dspy.OutputField()
    people: list[Person] = dspy.OutputField()
    note: float | None = dspy.OutputField()


class Gives(dspy.Module):
    """A program of the user's own."""

    def __init__(self, **outputs: Any) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, question: str) -> Any:
        return dspy.Prediction(**self.outputs)


class Greedy(dspy.Module):
    """A program that needs what the task does not give."""

    def forward(self, question: str, context: str) -> Any:
        return dspy.Prediction(answer=context)


# What it answers.


@every_way
def test_the_answer_is_typed_as_the_signature_says(ask: Ask) -> None:
    outputs = {"number": 1.5, "kind": "y", "people": [Person(name="Ada", age=3)], "note": None}
    a, b, judge = (FakeLM(name, always(**outputs)) for name in ("a", "b", "judge"))
    pred = ask(MoA(Task, [a, b], judge), question="?")
    assert dict(pred.items()) == outputs and [p.outputs for p in pred.proposals] == [outputs] * 2
    assert "plain" in a.prompts[0] and "Describe them." in a.prompts[0]


def anything(value: Any) -> Any:
    """A value that no type checker would let pass."""
    return value


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("str", "x\ny"),
        ("int", 7),
        ("float", 0.5),
        ("bool", True),
        ("Literal['good', 'bad']", "bad"),
        ("list[str]", ["a", "b"]),
        ("dict[str, float]", {"a": 1.5}),
        ("int | None", None),
        ("list[Person]", [Person(name="Ada", age=3)]),
    ],
)
def test_every_strategy_answers_in_every_type(strategy: Any, kind: str, value: Any) -> None:
    lms = [FakeLM(name, always(answer=value)) for name in ("a", "b", "judge")]
    task = anything(dspy.Signature)(f"question -> answer: {kind}", custom_types={"Person": Person})
    pred = MoA(task, lms[:2], lms[2], strategy)(question="?")
    assert (pred.answer, pred.metadata.failures) == (value, []) and type(pred.answer) is type(value)


def test_a_prediction_holds_the_outputs_only_and_the_account_beside_them() -> None:
    pred: Any = mixture(cast("a", "b", "judge"), layers=2)(question="?")
    assert (pred.toDict(), pred.keys(), repr(pred)) == (
        {"answer": "judge"},
        ["answer"],
        "Prediction(\n    answer='judge'\n)",
    )
    assert (type(pred), type(pred.metadata)) == (MoAPrediction, MoAMetadata)
    assert [(p.layer, p.agent) for p in pred.proposals] == [(2, "a"), (2, "b")]
    for again in (copy.copy(pred), copy.deepcopy(pred), pred.copy()):
        assert (again, again.metadata, again.proposals) == (pred, pred.metadata, pred.proposals)


def test_dspys_own_tools_take_it_as_any_prediction() -> None:
    moa = mixture(cast("a", "judge"))
    assert dspy.majority([moa(question="?"), moa(question="!"), dspy.Prediction(answer="x")]).answer == "judge"
    metric: Any = lambda example, pred: pred.answer == "judge"  # noqa: E731
    assert dspy.Evaluate(devset=EXAMPLES, metric=metric, display_progress=False)(moa).score == 100
    assert sorted(entry["model"] for entry in moa.history[:2]) == ["a", "judge"]


# Who proposes.


def test_proposers_are_names_lms_agents_programs_and_mixtures() -> None:
    lms = cast("a", "b", "own", "inner", "judge")
    program = dspy.ChainOfThought(QA)
    program.set_lm(lms["own"])
    inner = MoA(QA, [lms["a"]], lms["inner"])
    proposers = ["simulated/alice", lms["a"], Agent(lms["b"], name="bee"), program, inner, lms["a"]]
    pred = MoA(QA, proposers, lms["judge"])(question="What is 2 + 2?")
    assert [p.agent for p in pred.proposals] == ["alice", "a", "bee", "chainofthought", "moa", "a_2"]
    assert [p.outputs["answer"] for p in pred.proposals][1:] == ["a", "b", "own", "inner", "a"]
    assert calls(lms) == {"a": 3, "b": 1, "own": 1, "inner": 1, "judge": 1}


@both_ways
def test_react_proposes(ask: Ask) -> None:
    def search(query: str) -> str:
        """Find it."""
        return f"found {query}"

    steps: list[Any] = [
        {"next_thought": "t", "next_tool_name": "search", "next_tool_args": {"query": "it"}},
        {"next_thought": "t", "next_tool_name": "finish", "next_tool_args": {}},
        {"reasoning": "r", "answer": "found"},
    ]
    react = FakeLM("react", steps)
    program: Any = dspy.ReAct
    pred = ask(MoA(QA, [Agent(react, program(QA, tools=[search]))], FakeLM("judge", says("j"))), question="?")
    assert [p.outputs for p in pred.proposals] == [{"answer": "found"}] and "found it" in react.prompts[2]
    assert {name: usage.calls for name, usage in pred.metadata.agents.items()} == {"react": 3, "aggregator": 1}


def test_a_panel_is_a_module_of_its_own() -> None:
    task: Any = dspy.make_signature(QA)
    lms = cast("a", "b", "new")
    panel = Panel(task, [Agent(lms["a"]), Agent(lms["b"])])
    assert [p.outputs["answer"] for p in panel(question="?").proposals] == ["a", "b"]
    panel.set_lm(lms["new"])
    assert [p.outputs["answer"] for p in panel(question="?").proposals] == ["new", "new"]


# How many calls.


@both_ways
@pytest.mark.parametrize(("layers", "samples"), [(1, 2), (3, 1)])
@pytest.mark.parametrize(
    ("strategy", "more"),
    [("synthesis", 1), ("selection", 1), (Selection(rotations=3), 3), ("voting", 1), ("fusion", 1)],
)
def test_calls_are_proposers_times_samples_times_layers_and_the_strategys(
    ask: Ask, strategy: Any, more: int, layers: int, samples: int
) -> None:
    lms = {name: FakeLM(name, always(answer=name)) for name in ("a", "b", "judge")}
    pred = ask(mixture(lms, strategy=strategy, layers=layers, num_proposals_per_model=samples), question="?")
    each = layers * samples
    assert calls(lms) == {"a": each, "b": each, "judge": more}
    assert (pred.metadata.usage.calls, pred.metadata.proposals_asked) == (2 * each + more, 2 * each)
    assert (pred.metadata.failures, pred.metadata.degraded) == ([], False)


@pytest.mark.parametrize(("strategy", "judged"), [("selection", 0), ("voting", 0), ("fusion", 0), ("synthesis", 1)])
def test_nobody_judges_what_is_unanimous(strategy: Any, judged: int) -> None:
    lms = {name: FakeLM(name, always(answer="same")) for name in ("a", "b", "judge")}
    assert mixture(lms, strategy=strategy)(question="?").answer == "same"
    assert calls(lms) == {"a": 1, "b": 1, "judge": judged}


@both_ways
def test_a_later_layer_sees_all_of_the_layer_before(ask: Ask) -> None:
    def step(name: str) -> FakeLM:
        laps = iter(range(9))
        return FakeLM(f"vendor/{name}", lambda prompt: {"reasoning": "so", "answer": f"{name[0]}{next(laps)}"})

    ada, bob, judge = step("ada"), step("bob"), step("judge")
    pred = ask(MoA(QA, [ada, bob], judge, layers=3), question="?")
    known = ("a0", "b0", "a1", "b1", "a2", "b2")
    shown = [[text for text in known if f"answer: {text}" in prompt] for prompt in [*ada.prompts, *judge.prompts]]
    assert shown == [[], ["a0", "b0"], ["a1", "b1"], ["a2", "b2"]]
    assert [(p.layer, p.outputs["answer"]) for p in pred.metadata.all_proposals] == [
        *((1, "a0"), (1, "b0"), (2, "a1"), (2, "b1"), (3, "a2"), (3, "b2"))
    ]


@pytest.mark.parametrize(("specialized", "prompts"), [(False, 2), (True, 3)])
def test_proposers_share_one_prompt_or_have_one_each(specialized: bool, prompts: int) -> None:
    moa = mixture(cast("a", "b", "judge"), use_specialized_prompts=specialized)
    assert (len(moa.predictors()), moa.use_specialized_prompts) == (prompts, specialized)
    assert [agent.name for agent in moa.agents] == ["a", "b", "aggregator"]


def test_instructions_are_for_one_model_and_all_that_differs() -> None:
    lms = cast("a", "b", "judge")
    agents = [Agent(lms["a"], instructions="Be brief."), Agent(lms["b"], instructions="Be bold.")]
    MoA(QA, agents, lms["judge"], use_specialized_prompts=True)(question="?")
    assert lms["a"].prompts[0].replace("Be brief.", "Be bold.") == lms["b"].prompts[0] != lms["a"].prompts[0]


@pytest.mark.parametrize("side_by_side", [False, True])
def test_the_same_inputs_make_the_same_prompts_whatever_threads_do(side_by_side: bool) -> None:
    options: dict[str, Any] = {"num_proposals_per_model": 2, "strategy": Selection(2)} if side_by_side else {}
    seen = []
    for run, ask in enumerate((sync, in_task, sync)):
        delay = random.Random(run).uniform
        lms = {name: FakeLM(name, says(name), delay=delay(0, 0.03)) for name in ("a", "b", "c", "judge")}
        metadata = ask(mixture(lms, layers=2, **options), question="?").metadata
        prompts = [sorted(lm.prompts) for lm in lms.values()]
        seen.append((prompts, metadata.order_shown, [p.id for p in metadata.all_proposals]))
    assert seen[0] == seen[1] == seen[2]


# What is refused, and when.


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: MoA(QA, []), ValueError, "proposer"),
        (lambda: MoA(QA, ["x/a"], "x/j", anything("vote")), ValueError, "'vote'.*synthesis, selection, voting, fusion"),
        (lambda: MoA(QA, ["x/a"], "x/j", Voting), TypeError, "Strategy"),  # type: ignore[arg-type]
        (lambda: MoA(QA, ["x/a"], "x/j", layers=0), ValueError, "layers=0"),
        (lambda: MoA(QA, ["x/a"], "x/j", layers=anything(1.5)), ValueError, "layers=1.5"),
        (lambda: MoA(QA, ["x/a"], "x/j", num_proposals_per_model=0), ValueError, "num_proposals_per_model=0"),
        (lambda: MoA(QA, ["x/a"], "x/j", num_proposals_per_model=True), ValueError, "num_proposals_per_model=True"),
        (lambda: MoA(QA, ["x/a"], "x/j", limits=Limits(min_proposals=2)), ValueError, "min_proposals=2"),
        (lambda: MoA(QA, [anything(3)], "x/j"), TypeError, "int"),
        (lambda: MoA(QA, [Gives(other=1), dspy.Predict("question -> other")], "x/j"), ValueError, "answer"),
        (lambda: MoA(QA, [Greedy()], "x/j"), ValueError, "context"),
        (lambda: MoA(QA, [Agent("x/a", name="n"), Agent("x/b", name="n")], "x/j"), ValueError, "'n'"),
        (lambda: MoA(QA, [Agent("x/a", temperature=0)], "x/j", num_proposals_per_model=2), ValueError, "temperature"),
        (lambda: MoA(QA, [Agent("x/a", instructions="?")], "x/j"), ValueError, "use_specialized_prompts"),
        (lambda: MoA("question ->", ["x/a"], "x/j"), ValueError, "output"),
        (lambda: MoA("proposals -> answer", ["x/a"], "x/j"), ValueError, "proposals.*task_proposals"),
        (lambda: MoA("question -> metadata", ["x/a"], "x/j"), ValueError, "metadata.*task_metadata"),
        (lambda: MoA(42, ["x/a"], "x/j"), TypeError, "Signature"),  # type: ignore[arg-type]
        (lambda: Agent(), ValueError, "LM or a program"),
        (lambda: Agent(ANYTHING), TypeError, "A model is a name such as 'openai/gpt-5-mini' or a dspy.LM, not object"),
        (lambda: Agent(program=ANYTHING), TypeError, "program is a dspy.Module, not object"),
        (lambda: Agent("x/a", dspy.Predict(QA), instructions="x"), ValueError, "program has its own prompts"),
        (lambda: Agent("x/a", name="a b"), ValueError, "a b"),
        (lambda: Agent(program=dspy.Predict(QA), temperature=1), ValueError, "temperature"),
        (lambda: Limits(proposer_timeout=0), ValueError, "proposer_timeout"),
        (lambda: Limits(min_proposals=0), ValueError, "min_proposals"),
        (lambda: Selection(rotations=0), ValueError, "verdict"),
        (lambda: Voting(weights={"a": -1}), ValueError, "'a'"),
        (lambda: MoA(QA, ["x/a"], strategy=Voting(weights={"b": 1})), ValueError, "'b'.*a"),
        (lambda: MoA(QA, ["x/a"], strategy=Voting(["anwser"])), ValueError, "anwser.*answer"),
    ],
)
def test_what_makes_no_mixture_is_refused_when_it_is_built(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"(?s){words}"):
        make()


@both_ways
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "question is missing"),
        ({"qestion": "?"}, "question is missing.*qestion"),
        ({"question": "?", "config": {"temperature": 1}}, "config"),
        ({"question": "?", "lm": None}, "lm"),
    ],
)
def test_bad_inputs_are_refused_before_anybody_is_asked(ask: Ask, inputs: Any, words: str) -> None:
    lms = cast("a", "judge")
    with pytest.raises(ValueError, match=words):
        ask(mixture(lms), **inputs)
    assert calls(lms) == {"a": 0, "judge": 0}


@pytest.mark.parametrize("strategy", ["synthesis", "selection", "fusion"])
def test_a_strategy_that_needs_an_aggregator_misses_it_before_anybody_is_asked(strategy: Any) -> None:
    lms = cast("a", "b")
    with pytest.raises(ValueError, match="aggregator"):
        MoA(QA, list(lms.values()), strategy=strategy)(question="?")
    assert calls(lms) == {"a": 0, "b": 0}


def test_an_input_that_the_task_does_not_know_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    lms = cast("a", "judge")
    pred = mixture(lms)(question="?", idle="secret")
    assert pred.metadata.failures == [] and "secret" not in lms["a"].prompts[0]
    assert ["idle" in record.message for record in caplog.records if record.name.startswith("moa_dspy")] == [True]


def test_inputs_without_their_names_say_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"moa\(question=\.\.\.\)"):
        anything(mixture(cast("a", "judge")))("What is 2 + 2?")
