"""A mixture among what DSPy has: set_lm, LMs of every setting, modules of one kind, tools, optimizers, tables."""

import logging
import warnings
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Response, ToolCallPart, Usage
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, cast, in_task, mixture, says

from moa_dspy import Agent, MoA, MoAError


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What moa-dspy warned of."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("moa_dspy")]


def test_set_lm_that_makes_different_models_one_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    class Outer(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.moa = mixture(cast("a", "b", "judge"))

    outer = Outer()
    outer.set_lm(FakeLM("x", says("42")))
    with caplog.at_level(logging.WARNING):
        for program in (outer, outer, outer.deepcopy()):
            program.moa(question="?")
    [warning] = told(caplog)
    assert warning.startswith("set_lm put one model, x, in the place of a, b, judge: all agents ask it now.")


def test_resampling_is_no_set_lm_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dspy.BestOfN(mixture(cast("a", "b", "judge")), N=2, reward_fn=lambda *_: 0.0, threshold=1.0)(question="?")
    assert told(caplog) == []


@pytest.mark.parametrize(("place", "advice"), [(0, "num_proposals_per_model"), (1, "Drop it.")])
def test_completions_that_nobody_reads_are_told_when_it_is_built(
    place: int, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    several: Any = {"n": 3}
    lms = [FakeLM(name, says("42"), **(several if place == at else {})) for at, name in enumerate(("a", "judge"))]
    moa = MoA(QA, [lms[0]], lms[1])
    assert moa(question="?").answer == moa(question="?").answer == "42"
    [warning] = told(caplog)
    assert "several completions (n): the first one is used" in warning and advice in warning


@pytest.mark.parametrize("cache", [False, True])
def test_one_lm_at_temperature_0_with_two_prompts_is_asked_without_warnings(cache: bool, cached: None) -> None:
    lm = FakeLM("a", says("42"), temperature=0, cache=cache)
    agents = [Agent(lm, name=name, instructions=f"You are {name}.") for name in ("a", "b")]
    moa = MoA(QA, agents, FakeLM("judge", says("judge")), use_specialized_prompts=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert moa(question="?").answer == "judge"
    assert lm.rollouts == [None, None]


class Awaited(dspy.Module):
    """A module without a forward."""

    async def aforward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer=question)


def test_a_module_that_can_only_be_awaited_says_so() -> None:
    moa = MoA(QA, [Agent(program=Awaited(), name="a")], strategy="voting")
    assert in_task(moa, question="?").answer == "?"
    with pytest.raises(MoAError, match=r"agent 'a', Awaited, has no forward\(\).*await moa.acall\(\.\.\.\)"):
        moa(question="?")


def test_a_subclass_is_called_copied_saved_and_loaded(tmp_path: Any) -> None:
    class Shouting(MoA):
        def forward(self, **inputs: Any) -> Any:
            prediction = super().forward(**inputs)
            return dspy.Prediction(answer=prediction.answer.upper())

    moa = Shouting(QA, ["simulated/alice"], "simulated/judge")
    moa.save(tmp_path / "moa.json")
    loaded = Shouting.from_file(tmp_path / "moa.json")
    answers = {program(question="What is the capital of France?").answer for program in (moa, moa.deepcopy(), loaded)}
    assert answers == {"PARIS"}


class CallingTools:
    """An engine that answers with calls of tools, as providers do natively."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self.calls = calls

    def complete(self, request: Any) -> Response:
        parts = [
            ToolCallPart(id=f"{id(self)}-{at}", name=name, input=given) for at, (name, given) in enumerate(self.calls)
        ]
        message, usage = Message.assistant(parts), Usage(input_tokens=1, output_tokens=1)
        return Response(id=None, model="a", message=message, finish_reason="tool_call", usage=usage)

    def close(self) -> None: ...


class Act(dspy.Signature):
    """Call the tools that help."""

    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    calls: dspy.ToolCalls = dspy.OutputField()


def find(city: str) -> str:
    """Find a city."""
    return city


FIND, AGAIN = ("find", {"city": "Ulm"}), ("find", {"city": "Bern"})


@pytest.mark.parametrize("strategy", ["fusion", "voting", "selection"])
def test_native_tool_calls_that_most_make_are_the_answer(strategy: Any) -> None:
    engines = [CallingTools(FIND), CallingTools(FIND, AGAIN), CallingTools(FIND, AGAIN)]
    agents = [
        Agent(dspy.LM("a", engine=engine, cache=False), name=name) for name, engine in zip("abc", engines, strict=True)
    ]
    judge = FakeLM("judge", [{"reasoning": "so", "choice": "P1"}] if strategy == "selection" else [])
    with dspy.context(adapter=dspy.ChatAdapter(use_native_function_calling=True)):
        pred = MoA(Act, agents, judge, strategy=strategy)(question="?", tools=[dspy.Tool(find)])
    calls = [(call.name, call.args) for call in pred.calls.tool_calls]
    assert calls in ([FIND, AGAIN], [FIND]) if strategy == "selection" else calls == [FIND, AGAIN]
    assert pred.metadata.failures == []


@pytest.mark.parametrize("proposers", [["a"], ["a", "b"]])
def test_an_optimizer_runs_a_vote_as_often_as_one_predictor(proposers: list[str]) -> None:
    def runs(program: Any) -> int:
        scored: Any = []
        writer = FakeLM("w", lambda _: {"proposed_instruction": "Think.", "proposed_prefix_for_output_field": "So:"})
        optimizer = dspy.COPRO(prompt_model=writer, metric=lambda *gave: bool(scored.append(gave)), breadth=2, depth=2)
        optimizer.compile(program, trainset=EXAMPLES, eval_kwargs={"num_threads": 1})
        return len(scored)

    with dspy.context(lm=FakeLM("x", says("42"))):
        one = runs(dspy.ChainOfThought(QA))
    assert runs(MoA(QA, [FakeLM(name, says("42")) for name in proposers], strategy="voting")) == one


class Telling(dspy.Module):
    """A program that gives more than the task asks for."""

    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer="42", reasoning="I counted", trajectory={"step": 1}, citations=["p. 3"])


def telling(strategy: Any = "synthesis") -> MoA:
    judge = None if strategy == "voting" else FakeLM("judge", says("42", reasoning="they agree"))
    return MoA(QA, [Agent(program=Telling(), name="a")], judge, strategy=strategy)


def test_what_a_proposer_gives_beyond_the_task_is_on_its_proposal() -> None:
    [proposal] = telling()(question="?").proposals
    assert (proposal.outputs, proposal.reasoning) == ({"answer": "42"}, "I counted")
    assert proposal.extras == {"trajectory": {"step": 1}, "citations": ["p. 3"]}
    assert proposal.model_validate_json(proposal.model_dump_json()) == proposal


def test_the_reasoning_is_the_aggregators_where_it_reasoned() -> None:
    assert telling()(question="?").reasoning == "they agree"
    with pytest.raises(AttributeError, match="reasoning"):
        _ = telling("voting")(question="?").reasoning


def test_votes_tables_and_demos_see_the_tasks_outputs_only() -> None:
    moa = telling()
    pred = moa(question="?")
    assert (pred.keys(), pred.toDict(), dspy.majority([pred, pred]).toDict()) == (
        ["answer"],
        {"answer": "42"},
        {"answer": "42"},
    )
    run = dspy.Evaluate(devset=EXAMPLES, metric=lambda *_: True, num_threads=1)(moa)
    assert [list(row[1].keys()) for row in run.results] == [["answer"]] * len(EXAMPLES)
    tuned = dspy.BootstrapFewShot(metric=lambda *_: True, max_bootstrapped_demos=1, max_labeled_demos=0).compile(
        moa, trainset=EXAMPLES
    )
    [demo] = tuned.strategy.predictors()[0].demos
    assert sorted(demo.keys()) == ["answer", "augmented", "proposals", "question", "reasoning"]
