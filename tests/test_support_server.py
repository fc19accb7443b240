import asyncio
import copy
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import dspy
import pytest
from support.fake_lm import Call, FakeLM, Gate, misuses
from support.misuse import strict_fakes as strict_fakes
from support.openai_server import ChatRequest, OpenAIServer, Reply, Tokens
from support.recorded import load, question_of, recorded_answers, recordings_dir
from support.rendering import render

ADAPTERS = [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()]
FOX = Reply(render("chat", {"answer": "the quick brown fox"}), usage=Tokens(11, 7, cached=3, reasoning=2))
PREDICT = dspy.Predict("question -> answer")

needs_recordings = pytest.mark.skipif(recordings_dir() is None, reason="the recordings are not beside the project")


def lm_of(server: OpenAIServer, model: str = "fox", **settings: Any) -> dspy.LM:
    return dspy.LM(f"openai/{model}", api_base=server.url, api_key="key", cache=False, **{"num_retries": 0, **settings})


def ask(lm: dspy.LM, question: str = "?", predict: dspy.Module = PREDICT) -> Any:
    with dspy.context(lm=lm, track_usage=True):
        return predict(question=question)


async def ask_async(lm: dspy.LM) -> Any:
    with dspy.context(lm=lm):
        return (await PREDICT.acall(question="?")).answer


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(copy_context().run, call) for call in calls]]


async def until(true: Callable[[], bool]) -> None:
    for _ in range(5000):
        if true():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("waited in vain")


def streamed(lm: dspy.LM) -> tuple[list[str], Any]:
    async def collect() -> list[Any]:
        program: Any = dspy.streamify(PREDICT, stream_listeners=[dspy.streaming.StreamListener("answer")])
        with dspy.context(lm=lm, track_usage=True):
            return [piece async for piece in program(question="?")]

    *pieces, prediction = asyncio.run(collect())
    return [piece.chunk for piece in pieces], prediction


def check_usage(prediction: Any) -> None:
    usage = prediction.get_lm_usage()["openai/fox"]
    assert {kind: usage[f"{kind}_tokens"] for kind in ("prompt", "completion", "total")} == {
        "prompt": 11,
        "completion": 7,
        "total": 18,
    }
    assert usage["prompt_tokens_details"]["cached_tokens"] == 3
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 2


class TestServer:
    def test_answers_with_usage_and_remembers_the_request(self) -> None:
        with OpenAIServer(lambda request: FOX) as server:
            prediction = ask(lm_of(server, temperature=0.5), "why?")
        assert prediction.answer == "the quick brown fox"
        check_usage(prediction)
        (request,) = server.requests
        assert (request.model, request.body["temperature"]) == ("fox", 0.5)
        assert request.headers["authorization"] == "Bearer key"
        assert "why?" in request.prompt and "Your input fields are" in request.text

    def test_streams_in_pieces_with_usage(self) -> None:
        with OpenAIServer(lambda request: FOX) as server:
            chunks, prediction = streamed(lm_of(server))
        assert "".join(chunks) == prediction.answer == "the quick brown fox"
        assert len(chunks) > 3
        check_usage(prediction)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # litellm's own, when it is first imported here
    def test_serves_litellm_too(self) -> None:
        with OpenAIServer(lambda request: FOX) as server:
            lm = lm_of(server, engine="litellm")
            check_usage(ask(lm))
            chunks, prediction = streamed(lm)
            assert "".join(chunks) == prediction.answer == asyncio.run(ask_async(lm))

    @pytest.mark.parametrize(
        ("reply", "error"),
        [
            (Reply("no", 400), dspy.LMInvalidRequestError),
            (Reply("no", 400, code="context_length_exceeded"), dspy.ContextWindowExceededError),
            (Reply("no", 401), dspy.LMAuthError),
            (Reply("no", 404), dspy.LMUnsupportedModelError),
            (Reply("no", 429), dspy.LMRateLimitError),
            (Reply("no", 429, code="insufficient_quota"), dspy.LMBillingError),
            (Reply("no", 500), dspy.LMServerError),
            (Reply(drop=True), dspy.LMTransportError),
            (Reply(hang=True), dspy.LMTransportError),
            (Reply(raw='{"id": '), dspy.LMProviderError),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    def test_failures_reach_the_caller(self, reply: Reply, error: type[Exception]) -> None:
        with OpenAIServer(lambda request: reply) as server, pytest.raises(error) as caught:
            ask(lm_of(server, timeout=0.5))
        assert type(caught.value) is error

    def test_says_when_to_retry(self) -> None:
        replies = iter([Reply("slow down", 429, headers={"Retry-After": "0.01"}), FOX])
        with OpenAIServer(lambda request: next(replies)) as server:
            assert ask(lm_of(server, num_retries=1)).answer == "the quick brown fox"
        assert len(server.requests) == 2

    def test_drops_a_stream_in_the_middle(self) -> None:
        with OpenAIServer(lambda request: Reply(FOX.text, drop=True)) as server, pytest.raises(dspy.LMTransportError):
            streamed(lm_of(server))

    def test_serves_64_requests_at_once(self) -> None:
        gate = Gate(64)

        async def together(request: ChatRequest) -> Reply:
            await gate.wait_async()
            return FOX

        with OpenAIServer(together) as server:
            lm = lm_of(server)
            in_threads(*[lambda: ask(lm)] * 64)
        assert (server.peak, server.in_flight) == (64, 0)

    def test_takes_its_time_by_model(self) -> None:
        with OpenAIServer(lambda request: FOX, latency={"slow": 0.2}) as server:
            in_threads(lambda: ask(lm_of(server, "slow")), lambda: ask(lm_of(server, "fox")))
        seconds = {request.model: (request.ended or 0) - request.started for request in server.requests}
        assert seconds["fox"] < 0.2 <= seconds["slow"]

    def test_notices_a_client_that_went_away(self) -> None:
        async def give_up(server: OpenAIServer) -> None:
            call = asyncio.create_task(ask_async(lm_of(server)))
            await until(lambda: server.in_flight == 1)
            call.cancel()
            await until(lambda: server.in_flight == 0)
            assert server.requests[0].cancelled

        with OpenAIServer(lambda request: Reply(hang=True)) as server:
            asyncio.run(give_up(server))

    def test_stops_while_a_request_hangs(self) -> None:
        failures: list[BaseException] = []

        def hang() -> None:
            try:
                ask(lm_of(server))
            except dspy.LMTransportError as error:
                failures.append(error)

        with OpenAIServer(lambda request: Reply(hang=True)) as server:
            client = threading.Thread(target=hang)
            client.start()
            asyncio.run(until(lambda: server.in_flight == 1))
        client.join(5)
        assert len(failures) == 1

    def test_a_broken_answer_fails_the_call_and_the_test(self) -> None:
        def broken(request: ChatRequest) -> str:
            raise LookupError("no such row")

        with OpenAIServer(broken) as server, pytest.raises(dspy.LMServerError, match="LookupError: no such row"):
            ask(lm_of(server))
        assert misuses == ["no answer for 'fox': no such row"]
        misuses.clear()

    def test_lists_models_and_refuses_the_rest(self) -> None:
        with OpenAIServer(lambda request: FOX, models=("fox",)) as server:
            with urllib.request.urlopen(f"{server.url}/models") as response:
                assert [model["id"] for model in json.load(response)["data"]] == ["fox"]
            for path, body, status in [("models/x", None, 404), ("chat/completions", b"{", 400)]:
                with pytest.raises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(urllib.request.Request(f"{server.url}/{path}", data=body))
                assert caught.value.code == status
                assert json.load(caught.value)["error"]["type"] == "invalid_request_error"


@needs_recordings
class TestRecorded:
    @pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
    @pytest.mark.parametrize("task", ["gsm", "math-l5", "crux"])
    def test_serves_what_each_model_answered(self, task: str, adapter: dspy.Adapter) -> None:
        rows = load(task)[:3]
        recorded = [
            (question_of(row), model, output["answer"].strip())
            for row in rows
            for model, output in row["outputs"].items()
            if output["answer"] is not None
        ]
        with OpenAIServer(recorded_answers(rows, "answer")) as server, dspy.context(adapter=adapter):
            served = [ask(lm_of(server, model), question).answer.strip() for question, model, _ in recorded]
        assert served == [answer for _, _, answer in recorded]
        assert len(server.requests) == len(recorded) > 15

    def test_serves_reasoning_where_it_is_asked_for(self) -> None:
        row = load("gsm")[0]
        model, output = next(iter(row["outputs"].items()))
        with OpenAIServer(recorded_answers([row])) as server:
            prediction = ask(lm_of(server, model), row["question"], dspy.ChainOfThought("question -> answer: float"))
        assert (prediction.reasoning, prediction.answer) == (output["reasoning"], 18.0)

    @pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
    @pytest.mark.parametrize("kind", ["str", "float", "list[str]"])
    def test_no_type_reads_an_answer_where_there_was_none(self, kind: str, adapter: dspy.Adapter) -> None:
        row = {"id": "1", "question": None, "outputs": {"mute": {"answer": None}}}
        with (
            OpenAIServer(recorded_answers([row])) as server,
            dspy.context(adapter=adapter),
            pytest.raises(dspy.AdapterParseError),
        ):
            ask(lm_of(server, "mute"), "1", dspy.ChainOfThought(f"question -> answer: {kind}"))

    def test_refuses_what_was_not_recorded(self) -> None:
        row = {"id": "1", "question": "one?", "outputs": {"fox": {"answer": "1"}}}
        with OpenAIServer(recorded_answers([row])) as server:
            for model, question in [("fox", "two?"), ("owl", "one?")]:
                with pytest.raises(dspy.LMServerError):
                    ask(lm_of(server, model), question)
        assert misuses == [
            "no answer for 'fox': no recorded answer of 'fox' to the question 'two?'",
            "no answer for 'owl': refused model 'owl' with the inputs ['question']: "
            "the recordings hold ['fox'] with 'question'",
        ]
        misuses.clear()

    def test_an_aggregator_is_served_by_others(self) -> None:
        row = {"id": "1", "question": "one?", "outputs": {"fox": {"answer": "1"}}}
        aggregate = dspy.Predict("question, proposals -> answer")
        with (
            OpenAIServer(recorded_answers([row], others=lambda request: FOX)) as server,
            dspy.context(lm=lm_of(server)),
        ):
            assert aggregate(question="one?", proposals="[[ ## question ## ]]").answer == "the quick brown fox"
            assert PREDICT(question="one?").answer == "1"


class TestFakeLM:
    @pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
    def test_answers_in_the_format_asked_for(self, adapter: dspy.Adapter) -> None:
        values = {"answer": "a < b & c\n\nd", "items": ["x", "y"], "sure": True, "share": {"a": 0.5}}
        fake = FakeLM("a", [values])
        predict = dspy.Predict("question -> answer, items: list[str], sure: bool, share: dict[str, float]")
        with dspy.context(adapter=adapter):
            assert ask(fake, predict=predict).toDict() == values
        fake.assert_used_up()

    def test_counts_tokens(self) -> None:
        usage = ask(FakeLM("a", [{"answer": "x"}], usage=(3, 4))).get_lm_usage()["a"]
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (3, 4, 7)

    def test_streams_in_pieces(self) -> None:
        chunks, prediction = streamed(FakeLM("a", [{"answer": "the quick brown fox"}]))
        assert "".join(chunks) == prediction.answer == "the quick brown fox"
        assert len(chunks) > 3

    def test_copies_share_answers_and_record(self) -> None:
        fake = FakeLM("a", [{"answer": str(n)} for n in range(4)])
        first = fake.copy(rollout_id=1, temperature=1.0)
        lms = [fake, first, copy.deepcopy(first).copy(rollout_id=2)]
        assert [ask(lm).answer for lm in lms] + [asyncio.run(ask_async(first))] == ["0", "1", "2", "3"]
        assert fake.rollouts == [None, 1, 2, 1]
        assert [request.config.temperature for request in fake.requests] == [None, 1.0, 1.0, 1.0]

    def test_saved_and_loaded_it_is_the_same_fake(self) -> None:
        fake, program = FakeLM("a", [{"answer": "x"}], temperature=0.5), dspy.Predict("question -> answer")
        program.set_lm(fake)
        loaded = dspy.Predict("question -> answer")
        loaded.load_state(json.loads(json.dumps(program.dump_state())), allow_unsafe_lm_state=True)
        assert loaded(question="?").answer == "x"
        assert [request.config.temperature for request in fake.requests] == [0.5]

    def test_a_callable_answers_by_prompt(self) -> None:
        fake = FakeLM("a", lambda prompt: {"answer": "yes" if "red?" in prompt else "no"})
        assert [ask(fake, question).answer for question in ("red?", "blue?")] == ["yes", "no"]

    def test_raises_what_it_is_given(self) -> None:
        fake = FakeLM("a", [dspy.lm15.RateLimitError("later", retry_after=0.0), {"answer": "x"}], num_retries=1)
        assert ask(fake).answer == "x"
        with pytest.raises(dspy.LMAuthError):
            ask(FakeLM("a", [dspy.lm15.AuthError("bad key")]))

    def test_dspy_asks_twice_when_it_cannot_read_an_answer(self) -> None:
        fake = FakeLM("a", ["gibberish", "gibberish"])
        with pytest.raises(dspy.AdapterParseError):
            ask(fake)
        fake.assert_used_up()

    @pytest.mark.parametrize(
        ("answers", "message"),
        [
            ([], "fake 'a' has no answer left for call 1"),
            ([{"anser": "x"}], r"fake 'a' was asked for \['answer'\] in call 1, its answer lacks \['answer'\]"),
        ],
    )
    def test_misuse_fails_the_call_and_the_test(self, answers: list[Any], message: str) -> None:
        with pytest.raises(dspy.LMUnexpectedError, match=message):
            ask(FakeLM("a", answers, num_retries=3))
        assert len(misuses) == 1
        misuses.clear()

    def test_left_over_answers_are_an_error(self) -> None:
        with pytest.raises(AssertionError, match="fake 'a' has 1 of 1 answers left"):
            FakeLM("a", ["x"]).assert_used_up()

    def test_a_gate_proves_that_calls_overlap(self) -> None:
        gate = Gate(2)
        fakes = [FakeLM(name, [{"answer": name}] * 2, gate=gate) for name in ("a", "b")]

        async def both() -> list[str]:
            return list(await asyncio.gather(*map(ask_async, fakes)))

        assert [found.answer for found in in_threads(*[lambda fake=fake: ask(fake) for fake in fakes])] == ["a", "b"]
        assert asyncio.run(both()) == ["a", "b"]
        assert gate.opened == 2

    def test_a_serial_caller_does_not_pass_the_gate(self) -> None:
        fake = FakeLM("a", [{"answer": "x"}] * 2, gate=Gate(2, timeout=0.01))
        calls: list[Callable[[], Any]] = [lambda: ask(fake), lambda: asyncio.run(ask_async(fake))]
        for call in calls:
            with pytest.raises(dspy.LMUnexpectedError, match="only 1 of 2 calls were in flight"):
                call()
        misuses.clear()

    def test_knows_a_cancelled_call(self) -> None:
        fake = FakeLM("a", [{"answer": "x"}], delay=60)

        async def give_up() -> Call:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(ask_async(fake), 0.1)
            return fake.log[0]

        assert asyncio.run(give_up()).cancelled
