"""An OpenAI-compatible provider on the loopback interface: real sockets, answers and failures as a test wants them."""

import asyncio
import concurrent.futures
import inspect
import json
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, TypeAlias

from aiohttp import web
from typing_extensions import Self

from .misuse import FakeMisuse
from .openai_wire import ChatRequest, Reply, Tokens, completion, error, events

__all__ = ["Answerer", "ChatRequest", "OpenAIServer", "Reply", "Tokens"]

Answerer: TypeAlias = Callable[[ChatRequest], "str | Reply | Awaitable[str | Reply]"]


class OpenAIServer:
    """Serve chat completions (plain and streamed) at `url`, from a thread of its own.

    Args:
        answer: Makes the reply to a request, at once (it runs in the server's event loop), or as a coroutine.
        latency: Seconds from a request's arrival to its answer: for all models, or by model.
        models: What `GET /v1/models` lists.

    Example:
        >>> with OpenAIServer(lambda request: Reply("slow down", status=429)) as server:
        ...     lm = dspy.LM("openai/any", api_base=server.url, api_key="any", cache=False, num_retries=0)
        ...     lm("hello")  # LMRateLimitError
        >>> assert server.requests[0].model == "any"
    """

    def __init__(
        self, answer: Answerer, latency: float | Mapping[str, float] = 0.0, models: tuple[str, ...] = ()
    ) -> None:
        self.answer = answer
        self.latency = latency
        self.models = models
        self.requests: list[ChatRequest] = []
        self.in_flight = 0
        self.peak = 0
        """The most requests that were in flight at once."""
        self.url = ""
        self._started: concurrent.futures.Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]]

    def __enter__(self) -> Self:
        self._started = concurrent.futures.Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="openai-server", daemon=True)
        self._thread.start()
        self.url, self._loop, self._stop = self._started.result(timeout=10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=10)
        assert not self._thread.is_alive(), "the server does not stop: does its `answer` block?"

    def add_routes(self, app: web.Application) -> None:
        """Serve more than chat completions."""

    async def _serve(self) -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/v1/models", self._list)
        self.add_routes(app)
        app.router.add_route("*", "/{path:.*}", self._unknown)
        # Handlers stop when their client goes away, and need no grace when the server does.
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.01)
        try:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
            host, port = runner.addresses[0][:2]
        except BaseException as problem:
            self._started.set_exception(problem)
            raise
        stop = asyncio.Event()
        self._started.set_result((f"http://{host}:{port}/v1", asyncio.get_running_loop(), stop))
        await stop.wait()
        await runner.cleanup()

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        try:
            body = json.loads(await http.read())
            request = ChatRequest(body["model"], list(body["messages"]), body, http.headers)
        except (ValueError, KeyError, TypeError) as problem:
            return web.json_response(error(400, f"not a chat completion request: {problem!r}"), status=400)
        self.requests.append(request)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            return await self._respond(http, request)
        except (asyncio.CancelledError, ConnectionError):
            request.cancelled = True
            raise
        finally:
            request.ended = time.monotonic()
            self.in_flight -= 1

    async def _respond(self, http: web.Request, request: ChatRequest) -> web.StreamResponse:
        replies = [await self._reply(request) for _ in range(request.body.get("n") or 1)]
        reply = replies[0]
        if reply.hang is True:
            await asyncio.Event().wait()
        usual = self.latency if isinstance(self.latency, int | float) else self.latency.get(request.model, 0.0)
        latency = usual if reply.latency is None else reply.latency
        await asyncio.sleep(request.started + latency - time.monotonic())
        if request.body.get("stream") and reply.status == 200:
            return await self._stream(http, request, reply)
        if reply.drop:
            _drop(http)
            return web.Response()  # goes nowhere
        whole = completion(request, replies) if reply.status == 200 else error(reply.status, reply.text, reply.code)
        body = json.dumps(whole) if reply.raw is None else reply.raw
        if reply.hang or reply.pace:
            return await self._dribble(http, reply, body.encode())
        return web.Response(text=body, status=reply.status, headers=reply.headers, content_type=reply.content_type)

    async def _reply(self, request: ChatRequest) -> Reply:
        try:
            answer = self.answer(request)
            reply = await answer if inspect.isawaitable(answer) else answer
        except Exception as problem:
            # The client may retry or swallow the error; the test shall know, and at once.
            FakeMisuse(f"no answer for {request.model!r}: {problem}")
            return Reply(f"{type(problem).__name__}: {problem}", status=500, headers={"Retry-After": "0"})
        return Reply(reply) if isinstance(reply, str) else reply

    async def _dribble(self, http: web.Request, reply: Reply, body: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": reply.content_type, "Content-Length": str(len(body))})
        await response.prepare(http)
        if reply.hang:
            await response.write(body[: len(body) // 2])
            await asyncio.Event().wait()
        step = len(body) // 100 + 1
        for start in range(0, len(body), step):
            await response.write(body[start : start + step])
            await asyncio.sleep(reply.pace)
        return response

    async def _stream(self, http: web.Request, request: ChatRequest, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **(reply.headers or {})})
        await response.prepare(http)
        if reply.raw is not None:
            await response.write(f"data: {reply.raw}\n\n".encode())
            return response
        pieces = list(events(request, reply))
        for piece in pieces[: len(pieces) // 2] if reply.drop or reply.hang else pieces:
            await response.write(piece)
            await asyncio.sleep(reply.pace)
        if reply.hang:
            await asyncio.Event().wait()
        if reply.drop:
            _drop(http)
        return response

    async def _list(self, http: web.Request) -> web.Response:
        listed: list[dict[str, Any]] = [
            {"id": name, "object": "model", "created": 0, "owned_by": "tests"} for name in self.models
        ]
        return web.json_response({"object": "list", "data": listed})

    async def _unknown(self, http: web.Request) -> web.Response:
        message = f"Invalid URL ({http.method} {http.path})"
        return web.json_response(error(404, message, "unknown_url"), status=404)


def _drop(http: web.Request) -> None:
    if http.transport is not None:
        socket_of = http.transport.get_extra_info("socket")
        socket_of.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, no orderly end
        http.transport.abort()
