import asyncio
import time
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.gate import Gate
from support.mixtures import QA, Ask, Gives, both_ways, calls, cast, every_way, mixture, says

from moa_dspy import Agent, Limits, MoA, Panel, TooFewProposals, Voting
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

    @every_way
    def test_asks_all_at_once(self, ask: Ask) -> None:
        gate = Gate(6)
        round = ask(panel(*cast("a", "b", "c", gate=gate).values(), samples=2), question="?")
        assert (len(round.proposals), gate.opened) == (6, 1)

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
    @every_way
    @pytest.mark.parametrize(
        ("error", "reported"),
        [
            (dspy.lm15.RateLimitError("slow down"), "LMRateLimitError"),
            (dspy.lm15.AuthError("who?"), "LMAuthError"),
            (dspy.lm15.ServerError("oops"), "LMServerError"),
            (dspy.lm15.ContextLengthError("long"), "ContextWindowExceededError"),
            (RuntimeError("odd"), "LMUnexpectedError"),
        ],
    )
    def test_of_an_lm_is_reported_and_is_no_answer(self, ask: Ask, error: Exception, reported: str) -> None:
        lms = {"bad": failing(error), **cast("b", "judge")}
        pred = ask(mixture(lms), question="?")
        [failure] = pred.metadata.failures
        assert (failure.agent, failure.model, failure.error) == ("bad", "bad", reported)
        assert str(error) in failure.message and 0 <= failure.seconds < 2
        assert [p.agent for p in pred.proposals] == ["b"] and pred.metadata.degraded
        assert str(error) not in "".join(lms["judge"].prompts)

    @both_ways
    def test_to_parse_is_reported(self, ask: Ask) -> None:
        round = ask(panel(FakeLM("a", ["no fields", "no fields"]), FakeLM("b", says("b"))), question="?")
        [failure] = round.failures
        assert (failure.agent, failure.error) == ("a", "AdapterParseError")
        assert [call.agent for call in round.calls] == ["a", "a", "b"]

    @pytest.mark.parametrize(
        ("result", "error", "message"),
        [
            ("text", "IncompleteProposal", "The program returned str; a proposer returns a dspy.Prediction"),
            (None, "IncompleteProposal", "The program returned NoneType"),
            (dspy.Prediction(other="x"), "IncompleteProposal", "The prediction lacks answer; it has other."),
            (dspy.Prediction(answer="many"), "IncompleteProposal", "The output answer is no <class 'int'>: 'many'"),
            (ValueError("a bug"), "ValueError", "a bug"),
            (asyncio.CancelledError(), "CancelledError", ""),
        ],
    )
    @both_ways
    def test_of_a_module_is_reported(self, ask: Ask, result: Any, error: str, message: str) -> None:
        agents = [Agent(program=Gives(result)), Agent(FakeLM("b", says(1)))]
        round = ask(Panel(task_signature("question -> answer: int"), agents), question="?")
        [failure] = round.failures
        assert (failure.agent, failure.model, failure.error) == ("gives", None, error)
        assert failure.message.startswith(message) and [p.agent for p in round.proposals] == ["b"]

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
    @every_way
    def test_carries_every_proposal_and_cause_and_the_bill(self, ask: Ask) -> None:
        lms = {"a": FakeLM("a", says("a")), "bad": failing(dspy.lm15.RateLimitError("slow down")), **cast("judge")}
        moa = mixture(lms, limits=Limits(min_proposals=2))
        with pytest.raises(
            TooFewProposals, match=r"1 proposals came back, and at least 2.*bad: LMRateLimitError:.*slow"
        ) as caught:
            ask(moa, question="?")
        error = caught.value
        assert [(p.agent, p.outputs) for p in error.proposals] == [("a", {"answer": "a"})]
        assert [(f.agent, f.error) for f in error.failures] == [("bad", "LMRateLimitError")]
        usage = error.metadata.usage
        assert (usage.calls, usage.prompt_tokens, usage.completion_tokens, usage.failed_calls) == (2, 10, 5, 1)
        assert calls(lms) == {"a": 1, "bad": 1, "judge": 0}

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
    @every_way
    def test_goes_on_without_the_late(self, ask: Ask) -> None:
        lms = {**cast("a"), "late": FakeLM("late", says("x"), delay=4), **cast("judge")}
        started = time.monotonic()
        pred = ask(mixture(lms, limits=Limits(proposer_timeout=0.5)), question="?")
        assert time.monotonic() - started < 3
        [failure] = pred.metadata.failures
        assert failure.model_dump() == {
            "agent": "late",
            "id": "late",
            "layer": 1,
            "model": "late",
            "error": "ProposerTimeout",
            "message": "No answer within 0.5 s (Limits.proposer_timeout).",
            "seconds": 0.5,
        }
        assert [p.agent for p in pred.proposals] == ["a"]
        [row] = [call for call in pred.metadata.calls if call.agent == "late"]
        assert (row.error, row.cost_usd, row.prompt_tokens) == ("Unfinished", None, 0) and 0.2 < row.seconds < 3

    def test_cancels_the_task(self) -> None:
        late = FakeLM("late", says("x"), delay=5)
        moa = mixture({**cast("a"), "late": late, **cast("judge")}, limits=Limits(proposer_timeout=0.2))
        asyncio.run(moa.acall(question="?"))
        assert [call.cancelled for call in late.log] == [True]

    @both_ways
    def test_of_all_leaves_too_few(self, ask: Ask) -> None:
        moa = mixture(cast("a", "b", "judge", delay=1), limits=Limits(proposer_timeout=0.1))
        with pytest.raises(TooFewProposals, match=r"0 proposals.*a: ProposerTimeout.*b: ProposerTimeout") as caught:
            ask(moa, question="?")
        assert [call.error for call in caught.value.metadata.calls] == ["Unfinished", "Unfinished"]

    def test_is_no_limit_for_the_aggregator(self) -> None:
        lms = {**cast("a"), "judge": FakeLM("judge", says("j"), delay=0.8)}
        assert mixture(lms, limits=Limits(proposer_timeout=0.5))(question="?").answer == "j"

    @pytest.mark.parametrize("seconds", [0, -1, float("inf"), float("nan")])
    def test_that_is_none_is_refused(self, seconds: float) -> None:
        with pytest.raises(ValueError, match=r"proposer_timeout"):
            Limits(proposer_timeout=seconds)

    def test_of_every_layer_its_own(self) -> None:
        lms = {**cast("a", delay=0.6), **cast("judge")}
        assert mixture(lms, layers=2, limits=Limits(proposer_timeout=1))(question="?").metadata.failures == []


class TestEarlyStop:
    @both_ways
    def test_abandons_what_is_no_longer_needed(self, ask: Ask) -> None:
        quick = {name: FakeLM(name, says("x"), delay=0.3) for name in "ab"}
        lms = {**quick, "late": FakeLM("late", says("y"), delay=5)}
        started = time.monotonic()
        pred = ask(MoA(QA, [*lms.values()], strategy=Voting(early_stop=True)), question="?")
        assert time.monotonic() - started < 4
        metadata = pred.metadata
        assert (pred.answer, metadata.stopped_early, metadata.failures) == ("x", True, [])
        assert (metadata.proposals_asked, metadata.proposals_received) == (3, 2)
        assert [call.error for call in metadata.calls] == [None, None, "Unfinished"]

    @both_ways
    def test_does_not_undercut_the_minimum(self, ask: Ask) -> None:
        lms = [FakeLM(name, says("x"), delay=delay) for name, delay in (("a", 0), ("b", 0), ("c", 0.3))]
        moa = MoA(QA, lms, strategy=Voting(early_stop=True), limits=Limits(min_proposals=3))
        pred = ask(moa, question="?")
        assert (len(pred.proposals), pred.metadata.stopped_early) == (3, False)

    @both_ways
    def test_before_a_timeout_is_no_failure(self, ask: Ask) -> None:
        lms = {**{name: FakeLM(name, says("x")) for name in "ab"}, "late": FakeLM("late", says("y"), delay=2)}
        moa = MoA(QA, [*lms.values()], strategy=Voting(early_stop=True), limits=Limits(proposer_timeout=1))
        assert ask(moa, question="?").metadata.failures == []


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
