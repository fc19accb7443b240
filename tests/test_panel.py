from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, Ask, Gives, both_ways, calls, cast, every_way, mixture, says

from moa_dspy import Agent, Limits, MoA, Panel, TooFewProposals
from moa_dspy.signatures import task_signature

SECRET = "planted-secret-value-1234"


def panel(*lms: dspy.LM, task: Any = QA, **options: Any) -> Panel:
    return Panel(task_signature(task), [Agent(lm) for lm in lms], **options)


def failing(error: BaseException, name: str = "bad", **options: Any) -> FakeLM:
    def answer(prompt: str) -> Any:
        raise error

    return FakeLM(name, answer, **options)


class TestRound:
    @every_way
    def test_has_proposals_in_declared_order(self, ask: Ask) -> None:
        lms = [FakeLM(name, says(name, f"r{name}"), delay=delay) for name, delay in (("a", 0.1), ("b", 0.05), ("c", 0))]
        round = ask(panel(*lms), question="?")
        assert [p.model_dump(exclude={"seconds", "extras", "cut_by"}) for p in round.proposals] == [
            {
                "id": name,
                "agent": name,
                "model": name,
                "layer": 1,
                "sample": 1,
                "outputs": {"answer": name},
                "reasoning": f"r{name}",
            }
            for name in "abc"
        ]
        assert 0.1 <= round.proposals[0].seconds < 1 and round.proposals[2].seconds < 0.1
        assert (round.failures, round.asked, round.abandoned) == ([], {"a": "a", "b": "b", "c": "c"}, [])
        assert [call.agent for call in round.calls] == ["a", "b", "c"]

    @both_ways
    def test_numbers_the_samples(self, ask: Ask) -> None:
        lms = cast("a", "b")
        round = ask(panel(*lms.values(), samples=2, layer=3), question="?", proposals="")
        assert [(p.id, p.agent, p.sample, p.layer) for p in round.proposals] == [
            ("a", "a", 1, 3),
            ("a#2", "a", 2, 3),
            ("b", "b", 1, 3),
            ("b#2", "b", 2, 3),
        ]
        assert round.asked == {"a": "a", "a#2": "a", "b": "b", "b#2": "b"}
        assert calls(lms) == {"a": 2, "b": 2}

    @both_ways
    def test_types_the_outputs(self, ask: Ask) -> None:
        round = ask(panel(FakeLM("a", says(["4", "5"])), task="question -> answer: list[int]"), question="?")
        assert round.proposals[0].outputs == {"answer": [4, 5]}

    def test_reasoning_is_what_the_program_says_of_it(self) -> None:
        results: list[dict[str, Any]] = [
            {"answer": "x", "reasoning": "r"},
            {"answer": "x", "reasoning": None},
            {"answer": "x"},
        ]
        agents = [Agent(program=Gives(dspy.Prediction(**result)), name=f"m{n}") for n, result in enumerate(results)]
        round = Panel(task_signature(QA), agents)(question="?")
        assert [proposal.reasoning for proposal in round.proposals] == ["r", None, None]

    def test_reasoning_that_the_task_asks_for_is_an_output(self) -> None:
        round = panel(FakeLM("a", says("x", "r")), task="question -> reasoning, answer")(question="?")
        [proposal] = round.proposals
        assert (proposal.outputs, proposal.reasoning) == ({"reasoning": "r", "answer": "x"}, None)


class TestFailure:
    @pytest.mark.parametrize(("ambient", "message"), [(None, "No LM is loaded"), ("openai/gpt-5", "not a string")])
    def test_of_the_settings_is_reported_in_dspys_words(self, ambient: Any, message: str) -> None:
        with dspy.context(lm=ambient), pytest.raises(TooFewProposals, match=rf"predict: ValueError: .*{message}"):
            MoA(QA, [dspy.Predict(QA)], strategy="voting")(question="?")

    def test_message_is_cut_to_a_readable_length(self) -> None:
        [failure] = Panel(task_signature(QA), [Agent(program=Gives(ValueError("x" * 5000)))])(question="?").failures
        assert failure.message == "x" * 500 + " [...]"

    @pytest.mark.parametrize("place", ["own", "brought", "inside", "ambient", "environment", "headers", "bearer"])
    @both_ways
    def test_message_holds_no_secrets(self, place: str, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
        keyed = dspy.LM("openai/x", api_key=SECRET)
        brings = dspy.ChainOfThought(QA)
        text = f"Authorization: Bearer {SECRET}" if place == "bearer" else f"Incorrect key {SECRET} provided"
        program: Any = Gives(RuntimeError(text))
        agents = {
            "own": Agent(keyed, program),
            "headers": Agent(dspy.LM("x/y", extra_headers={"X-Auth": SECRET}), program),
        }
        if place == "brought":
            brings.set_lm(keyed)
        if place == "inside":
            program.inner = MoA(QA, [keyed], strategy="voting")
        program.brings = brings
        if place == "environment":
            monkeypatch.setenv("MY_API_KEY", SECRET)
        agent = agents.get(place, Agent(program=program, name="gives"))
        limits = Limits(min_proposals=1)
        with dspy.context(lm=keyed if place == "ambient" else None), pytest.raises(TooFewProposals) as caught:
            ask(MoA(QA, [agent], strategy="voting", limits=limits), question="?")
        [failure] = caught.value.failures
        assert failure.message == text.replace(SECRET, "***")
        assert SECRET not in str(caught.value) + caught.value.metadata.model_dump_json()


class TestTooFew:
    def test_in_a_later_layer_carries_the_earlier_ones(self) -> None:
        lms = {"a": FakeLM("a", [{"reasoning": "r", "answer": "x"}, dspy.lm15.ServerError("down")]), **cast("judge")}
        with pytest.raises(TooFewProposals) as caught:
            mixture(lms, layers=2, limits=Limits(on_degraded="raise"))(question="?")
        error = caught.value
        assert ([(p.layer, p.agent) for p in error.proposals], len(error.failures)) == ([(1, "a")], 1)
        assert (error.metadata.proposals_asked, error.metadata.usage.calls) == (2, 2)

    def test_as_many_as_needed_will_do(self) -> None:
        lms = {"bad": failing(RuntimeError("x")), **cast("a", "b", "judge")}
        pred = mixture(lms, limits=Limits(min_proposals=2))(question="?")
        assert (pred.answer, len(pred.proposals), pred.metadata.degraded) == ("judge", 2, True)

    @pytest.mark.parametrize(("wanted", "samples"), [(3, 1), (5, 2)])
    def test_more_than_there_can_be_is_refused_at_once(self, wanted: int, samples: int) -> None:
        with pytest.raises(
            ValueError, match=rf"min_proposals={wanted} can never be reached: a layer gives {2 * samples} "
        ):
            mixture(cast("a", "b", "judge"), limits=Limits(min_proposals=wanted), num_proposals_per_model=samples)


class TestTimeout:
    def test_of_every_layer_its_own(self) -> None:
        lms = {**cast("a", delay=0.6), **cast("judge")}
        assert mixture(lms, layers=2, limits=Limits(proposer_timeout=1))(question="?").metadata.failures == []


class TestPrograms:
    def test_shared_prompt_is_one_program(self) -> None:
        made: Any = panel(*cast("a", "b").values())
        assert made.a.program is made.b.program is made.shared
        assert [name for name, _ in made.named_predictors()] == ["shared.predict"]

    def test_specialized_ones_are_several(self) -> None:
        made: Any = panel(*cast("a", "b").values(), specialized=True)
        assert [name for name, _ in made.named_predictors()] == ["a.program.predict", "b.program.predict"]
        assert not hasattr(made, "shared")

    def test_specialized_one_starts_from_the_models_strength(self) -> None:
        made: Any = panel(FakeLM("openai/gpt-4o", says("x")), FakeLM("unknown", says("x")), specialized=True)
        plain = task_signature(QA).instructions
        starting = [agent.program.predict.signature.instructions for agent in made.agents]
        assert starting[0].startswith(f"{plain}\n\nPlan the answer") and starting[1] == plain

    def test_reasons_step_by_step_unless_the_task_asks_for_it(self) -> None:
        made: Any = [panel(FakeLM("a", []), task=task).shared for task in (QA, "question -> reasoning, answer")]
        assert [type(program) for program in made] == [dspy.ChainOfThought, dspy.Predict]
