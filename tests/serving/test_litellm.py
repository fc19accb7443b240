"""Mixtures as models of LiteLLM, asked in this process; their models are a server on loopback."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litellm
import pytest
from litellm import exceptions
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.rendering import render
from support.served import answers, write_served

from moa_dspy import MoA
from moa_dspy.serving.litellm import MixtureLLM

HI = [{"role": "user", "content": "Hi"}]
CONVERSATION = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "My name is Ada."},
    {"role": "assistant", "content": "Hello Ada."},
    {"role": "user", "content": [{"type": "text", "text": "Who am I?"}]},
]
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(litellm, "custom_provider_map", [])
    monkeypatch.setenv("OPENAI_API_KEY", "any-key")
    monkeypatch.chdir(tmp_path)
    with OpenAIServer(answers) as server:
        yield server


def serve(server: OpenAIServer, *models: str, **settings: Any) -> MixtureLLM:
    """A handler with one mixture, `moa/team`, of models at the server; the last one is the aggregator."""
    handler = MixtureLLM({"team": write_served("team", server, *models, **settings)})
    litellm.custom_provider_map = [{"provider": "moa", "custom_handler": handler}]
    return handler


def ask(messages: Any = HI, **options: Any) -> Any:
    return litellm.completion("moa/team", messages, **options)


def test_the_answer_comes_with_the_whole_mixtures_usage_cost_and_panel(server: OpenAIServer) -> None:
    serve(server, "a", "b", "dead", "judge")
    response = ask()
    [choice], usage = response.choices, response.usage
    assert (choice.message.content, choice.finish_reason) == ("judge says quite a lot", "stop")
    account = choice.message.provider_specific_fields["moa"]
    assert [(one["agent"], one["status"]) for one in account["panel"]] == [
        ("a", "proposed"),
        ("b", "proposed"),
        ("dead", "LMAuthError"),
    ]
    assert account["degraded"] is True and account["usage"]["calls"] == 4
    cost = (usage.prompt_tokens + 2 * usage.completion_tokens) / 1e6
    assert response._hidden_params["response_cost"] == usage.cost == pytest.approx(cost) and cost > 0


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_a_stream_gives_the_same_in_pieces(server: OpenAIServer, awaited: bool) -> None:
    serve(server, "a", "judge")

    async def collect() -> list[Any]:
        response: Any = await litellm.acompletion("moa/team", HI, stream=True, **options)
        return [chunk async for chunk in response]

    options: Any = {"stream_options": {"include_usage": True}}
    chunks = asyncio.run(collect()) if awaited else list(ask(stream=True, **options))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks]
    assert "".join(texts) == "judge says quite a lot" and len([text for text in texts if text]) > 3
    assert chunks[-1].usage.cost > 0 and chunks[-1].usage.prompt_tokens == ask().usage.prompt_tokens
    assert any(getattr(chunk, "moa", None) for chunk in chunks)


def test_system_prompts_and_earlier_turns_arrive_with_every_model(server: OpenAIServer) -> None:
    serve(server, "a", "judge")
    ask(CONVERSATION)
    for request in server.requests:
        assert [message["role"] for message in request.messages][1:] == ["user", "assistant", "user"]
        assert "My name is Ada." in request.text and "Hello Ada." in request.text
        assert "Be kind." in request.prompt and "Who am I?" in request.prompt


def test_a_signature_gets_the_conversation_as_its_one_input(server: OpenAIServer) -> None:
    serve(server, "a", "judge", signature="question -> answer: str, sure: bool")
    server.answer = lambda request: render("chat", {"reasoning": "so", "answer": "yes", "sure": "True"})
    assert json.loads(ask(CONVERSATION).choices[0].message.content) == {"answer": "yes", "sure": True}
    told = "Be kind.\n\nUser: My name is Ada.\n\nAssistant: Hello Ada.\n\nUser: Who am I?"
    assert all(told in request.prompt for request in server.requests)


def test_a_compiled_mixture_is_served_with_its_prompts(server: OpenAIServer) -> None:
    path = write_served("team", server, "a", "judge", signature="question -> answer")
    moa = MoA.from_file(path, allow_unsafe_lm_state=True)
    predictor: Any = moa.predictors()[0]
    predictor.signature = predictor.signature.with_instructions("As compiled.")
    moa.save("moa.json")
    litellm.custom_provider_map = [{"provider": "moa", "custom_handler": MixtureLLM({"team": "moa.json"})}]
    assert ask().choices[0].message.content == "judge says quite a lot"
    assert "As compiled." in server.requests[0].text


def test_what_the_client_asks_of_the_text_is_asked_of_who_writes_it(server: OpenAIServer) -> None:
    serve(server, "a", "judge")
    ask(temperature=0.3, seed=7)
    asked = {request.model: request.body for request in server.requests}
    assert (asked["judge"]["temperature"], asked["judge"]["seed"]) == (0.3, 7)
    assert "seed" not in asked["a"] and asked["a"].get("temperature") != 0.3


def tell(response: Any) -> tuple[str, str]:
    """The answer's text and why it ends, streamed or not."""
    choices: list[Any] = (
        response.choices if isinstance(response, litellm.ModelResponse) else [c.choices[0] for c in response]
    )
    texts = [(one.message if hasattr(one, "message") else one.delta).content or "" for one in choices]
    return "".join(texts), choices[-1].finish_reason


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_tokens": 2}, ("judge says", "length")),
        ({"stop": "ite a"}, ("judge says qu", "stop")),
        ({"stop": ["lot of", "never"]}, ("judge says quite a lot", "stop")),
        ({"stop": ["a lot", "say"], "max_tokens": 9}, ("judge ", "stop")),
    ],
)
def test_the_answer_ends_where_the_client_says(
    server: OpenAIServer, streamed: bool, options: Any, told: tuple[str, str]
) -> None:
    serve(server, "a", "judge")
    assert tell(ask(stream=streamed, **options)) == told
    assert all("stop" not in request.body for request in server.requests)  # it would cut DSPy's format


def test_images_reach_who_proposes_and_who_judges(server: OpenAIServer) -> None:
    serve(server, "a", "judge")
    urls = ["data:image/png;base64,iVBORw0KGgo=", "https://example.org/cat.png"]
    shown: Any = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    first = {"role": "user", "content": [{"type": "text", "text": "This is a dog."}, shown[0]]}
    turns = [first, {"role": "assistant", "content": "I see."}, {"role": "user", "content": [shown[1]]}]
    assert tell(ask(turns)) == ("judge says quite a lot", "stop")
    for request in server.requests:
        parts = [
            part for message in request.messages if isinstance(message["content"], list) for part in message["content"]
        ]
        assert [part for part in parts if part["type"] == "image_url"] == shown
        assert "This is a dog.\\n\\n[Image 1]" in json.dumps(request.messages) and "[Image 2]" in request.text
    ask()
    assert "mage" not in server.requests[-1].text


def test_a_signature_takes_the_image_that_it_wants(server: OpenAIServer) -> None:
    serve(server, "a", "judge", signature="picture: dspy.Image, question -> answer")
    part = {"type": "image_url", "image_url": "data:image/png;base64,iVBORw0KGgo="}
    ask([{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}])
    assert all("iVBORw0KGgo=" in json.dumps(request.messages) for request in server.requests)
    with pytest.raises(exceptions.BadRequestError, match="takes one image, picture, and the conversation holds 2"):
        ask([{"role": "user", "content": [part, part]}])


def test_limits_of_the_command_line_hold_beside_those_of_the_file(server: OpenAIServer) -> None:
    handler = MixtureLLM({"team": write_served("team", server, "a", "judge", limits={"timeout": 50})}, {"max_calls": 1})
    litellm.custom_provider_map = [{"provider": "moa", "custom_handler": handler}]
    account = ask().choices[0].message.provider_specific_fields["moa"]
    assert (account["answered_by"], account["usage"]["calls"]) == ("voting", 1)


def test_an_answer_has_the_schema_that_the_client_asks_for(server: OpenAIServer) -> None:
    serve(server, "a", "b", "judge")
    cities = {"a": '{"town": 1}', "b": '{"city": "Bonn"}', "judge": '{"city": "Bern"}'}
    server.answer = lambda request: render("chat", {"reasoning": "so", "answer": cities[request.model]})
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
    message = ask(response_format=form).choices[0].message
    assert message.content == '{"city": "Bern"}' and '"required": ["city"]' in server.requests[0].text
    assert [one["status"] for one in message.provider_specific_fields["moa"]["panel"]] == [
        "proposed",
        "AdapterParseError",
    ]
    assert ask(response_format={"type": "json_object"}).choices[0].message.content == '{"city": "Bern"}'


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_are_proposed_and_the_aggregator_says_which_is_called(server: OpenAIServer, streamed: bool) -> None:
    serve(server, "a", "judge")
    call = {"tool_calls": [{"name": "weather", "args": {"city": "Bern"}}]}
    server.answer = lambda request: render(
        "chat", {"reasoning": "so", "answer": "", "tool_calls": json.dumps(call if request.model == "judge" else None)}
    )
    response = ask(tools=[WEATHER], stream=streamed)
    choices = [chunk.choices[0] for chunk in response] if streamed else response.choices
    [made] = [call for choice in choices for call in (choice.delta if streamed else choice.message).tool_calls or ()]
    assert (made.function.name, json.loads(made.function.arguments)) == ("weather", {"city": "Bern"})
    assert choices[-1].finish_reason == "tool_calls" and "weather" in server.requests[0].text
    told = [
        {"role": "assistant", "content": None, "tool_calls": [made.model_dump()]},
        {"role": "tool", "tool_call_id": made.id, "content": "Sunny."},
    ]
    server.answer = lambda request: render("chat", {"reasoning": "so", "answer": "Sunny!", "tool_calls": "null"})
    [choice] = ask([*HI, *told], tools=[WEATHER]).choices
    assert (choice.message.content, choice.finish_reason) == ("Sunny!", "stop")
    assert "Sunny." in server.requests[-1].prompt and '"city": "Bern"' in server.requests[-1].text


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_an_answer_that_must_be_a_call_is_asked_for_until_it_is_one(
    server: OpenAIServer, streamed: bool, choice: Any
) -> None:
    serve(server, "a", "b", "judge")
    calls = {name: {"tool_calls": [{"name": name, "args": {"city": "Bern"}}]} for name in ("weather", "clock")}
    said: dict[str, list[Any]] = {
        "a": [calls["weather"]],
        "b": [calls["clock"]] * 2,
        "judge": [{"tool_calls": []}, calls["weather"]],
    }

    def answer(request: ChatRequest) -> str:
        is_first, call = len(said[request.model]) == 2 or request.model == "a", said[request.model].pop(0)
        return render("chat" if is_first else "json", {"reasoning": "so", "answer": "", "tool_calls": json.dumps(call)})

    server.answer = answer
    response = ask(tools=[WEATHER], tool_choice=choice, stream=streamed, parallel_tool_calls=False)
    chunks = list(response) if streamed else [response]
    messages = [chunk.choices[0].delta if streamed else chunk.choices[0].message for chunk in chunks]
    assert [call.function.name for message in messages for call in message.tool_calls or ()] == ["weather"]
    [account] = [
        found for message in messages for found in [(message.provider_specific_fields or {}).get("moa")] if found
    ]
    # What was streamed cannot be taken back, so an aggregator is not asked again then: the vote decides.
    judged = [("aggregator", "AdapterParseError")] if streamed else []
    panel = [(one["agent"], one["status"]) for one in account["panel"]]
    assert panel == [("a", "proposed"), ("b", "AdapterParseError"), *judged] and len(said["judge"]) == streamed


@pytest.mark.parametrize("described", [{}, {"description": "Knows the weather."}])
def test_a_tool_is_shown_as_the_client_describes_it(server: OpenAIServer, described: Any) -> None:
    serve(server, "a", "judge")
    ask(tools=[{"type": "function", "function": {"name": "weather", **described}}])
    shown = "<desc>Knows the weather.</desc>" if described else "weather. It takes arguments"
    assert shown in server.requests[0].text


def test_an_answer_that_should_be_a_call_and_is_none_is_an_error(server: OpenAIServer) -> None:
    serve(server, "a", "judge")
    server.answer = lambda request: render("chat", {"reasoning": "so", "answer": "no", "tool_calls": "null"})
    with pytest.raises(exceptions.APIError, match=r"(?s)a: AdapterParseError.*Spent"):
        ask(tools=[WEATHER], tool_choice="required")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"n": 2}, "does not know what to do with n. It takes "),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "the name of one of"),
        ({"messages": [{"role": "assistant", "content": "?"}]}, "does not end with a message of the user"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "/etc/passwd"}}]}]},
            "and this one begins '/etc/passwd'",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}]},
            "reads text and images, and a message holds input_audio",
        ),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "no"}}}}, "no JSON schema"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anybody_is_asked(
    server: OpenAIServer, options: Any, problem: str
) -> None:
    serve(server, "a", "judge")
    with pytest.raises(exceptions.BadRequestError, match=problem):
        ask(**{"messages": HI, **options})
    assert server.requests == []


def test_tools_and_forms_are_refused_where_a_signature_says_them(server: OpenAIServer) -> None:
    serve(server, "a", "judge", signature="question -> answer")
    with pytest.raises(exceptions.BadRequestError, match="does not know what to do with tools, response_format"):
        ask(tools=[WEATHER], response_format={"type": "json_object"})


@pytest.mark.parametrize(("status", "code"), [(429, None), (401, None), (400, "context_length_exceeded"), (503, None)])
@pytest.mark.parametrize("streamed", [False, True])
def test_errors_keep_their_status_and_say_what_was_paid(
    server: OpenAIServer, streamed: bool, status: int, code: str | None
) -> None:
    serve(server, "a", "b", "judge", limits={"min_proposals": 2})
    server.answer = lambda request: answers(request) if request.model == "a" else Reply("no", status=status, code=code)
    with pytest.raises(Exception, match=r'(?s)b: \w+Error: .*Spent: {"completion_tokens": 2') as raised:
        list(ask(stream=streamed))
    assert raised.value.status_code == status  # type: ignore[attr-defined]


def test_a_conversation_that_no_window_holds_is_told_as_clients_know_it(server: OpenAIServer) -> None:
    serve(server, "a", "judge")
    server.answer = lambda request: Reply("no", status=400, code="context_length_exceeded")
    with pytest.raises(exceptions.ContextWindowExceededError):
        ask()


def test_a_stream_that_breaks_in_the_middle_is_no_answer(server: OpenAIServer) -> None:
    serve(server, "a", "judge")
    # At a pace: a reset takes back what nobody has read yet.
    broken = Reply(render("chat", {"reasoning": "so", "answer": "judge says a lot " * 20}), drop=True, pace=0.01)
    server.answer = lambda request: broken if request.model == "judge" else answers(request)
    heard = []
    with pytest.raises(Exception, match="The stream broke; what the mixture answers is: a says quite a lot"):
        for chunk in ask(stream=True):
            heard.append(chunk.choices[0].delta.content)
    assert heard[0] == "judge"


def test_who_goes_away_stops_what_is_under_way(server: OpenAIServer) -> None:
    handler = serve(server, "a", "judge")
    server.answer = lambda request: Reply(answers(request).text, pace=0.05 if request.model == "judge" else 0)

    async def leave() -> None:
        chunks = handler.astreaming(model="team", messages=HI, optional_params={})
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
        while not server.requests[-1].cancelled:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(leave(), 20))
    assert [(request.model, request.cancelled) for request in server.requests] == [("a", False), ("judge", True)]


def test_ten_at_once_run_side_by_side(server: OpenAIServer) -> None:
    serve(server, "a", "judge")
    server.latency = 0.3

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(litellm.acompletion("moa/team", HI) for _ in range(10)))

    answered = asyncio.run(all_at_once())
    assert {one.choices[0].message.content for one in answered} == {"judge says quite a lot"} and server.peak == 10


@pytest.mark.parametrize("name", ["gpt-4o", "claude-haiku-4-5", "my-replicate"])
def test_names_that_litellm_knows_are_refused(server: OpenAIServer, name: str) -> None:
    with pytest.raises(ValueError, match=f"LiteLLM knows a model '{name}' and would ask that one"):
        MixtureLLM({name: write_served("team", server, "a", "judge")})


def test_mixtures_that_cannot_answer_are_refused_at_once(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="the mixture's signature needs context, question"):
        serve(server, "a", "judge", signature="context, question -> answer")
    with pytest.raises(ValueError, match="'a b' is no name for a model"):
        MixtureLLM({"a b": "team.json"})
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    Path("keyless.yaml").write_text("proposers: [gemini/any]\naggregator: simulated/judge\n")
    with pytest.raises(ValueError, match="GEMINI_API_KEY"):
        MixtureLLM({"keyless": "keyless.yaml"})


def test_an_unknown_model_is_not_found(server: OpenAIServer) -> None:
    serve(server, "a", "judge")
    with pytest.raises(exceptions.NotFoundError, match=r"no moa/other here. There is: team\."):
        litellm.completion("moa/other", HI)
