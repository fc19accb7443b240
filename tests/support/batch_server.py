"""OpenAI's files and batches on the loopback interface: what is in a batch is answered when a test says so."""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .openai_server import OpenAIServer
from .openai_wire import ChatRequest, completion, error

__all__ = ["BatchServer", "Submitted"]


@dataclass
class Submitted:
    """A batch: `status` is what a test sets; once it has ended, the first `done` of its lines are answered."""

    id: str
    lines: list[dict[str, Any]]
    input_file_id: str
    status: str = "in_progress"
    done: int | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What each line asks."""
        return [line["body"] for line in self.lines]


class BatchServer(OpenAIServer):
    """Serves `/files` and `/batches` too; each line is answered as a request for a chat completion would be.

    Attributes:
        batches: In the order in which they were made.
        broken: Whether it takes no files, and says nothing of its batches but an error.
        on_create: Called when a batch has been made, before anybody is told; what it raises is a 500.
    """

    def __init__(self, answer: Any) -> None:
        super().__init__(answer)
        self.batches: list[Submitted] = []
        self.broken = False
        self.on_create: Any = lambda: None
        self._files: dict[str, bytes] = {}
        self._serial = itertools.count(1)

    def finish(self, status: str = "completed", done: int | None = None) -> None:
        """End what is under way."""
        for batch in self.batches:
            if batch.status == "in_progress":
                batch.status, batch.done = status, done

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._download)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list_batches)
        app.router.add_get("/v1/batches/{id}", self._retrieve)

    async def _upload(self, http: web.Request) -> web.Response:
        if self.broken:
            return web.json_response(error(500, "No uploads"), status=500)
        form = await http.post()
        uploaded: Any = form["file"]
        assert form["purpose"] == "batch"
        id = f"file-{next(self._serial)}"
        self._files[id] = uploaded.file.read()
        told = {"id": id, "object": "file", "bytes": 1, "created_at": 1, "filename": "x", "purpose": "batch"}
        return web.json_response({**told, "status": "processed"})

    async def _create(self, http: web.Request) -> web.Response:
        asked = await http.json()
        lines = [json.loads(line) for line in self._files[asked["input_file_id"]].splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        assert {line["url"] for line in lines} == {asked["endpoint"]} == {"/v1/chat/completions"}
        assert len({line["body"]["model"] for line in lines}) == 1
        self.batches.append(Submitted(f"batch_{len(self.batches) + 1}", lines, asked["input_file_id"]))
        try:
            self.on_create()
        except Exception as problem:
            return web.json_response(error(500, str(problem)), status=500)
        return web.json_response(self._told(self.batches[-1]))

    async def _retrieve(self, http: web.Request) -> web.Response:
        for batch in [] if self.broken else self.batches:
            if batch.id == http.match_info["id"]:
                if batch.status != "in_progress" and not batch.files:
                    await self._answer(batch)
                return web.json_response(self._told(batch))
        status = 500 if self.broken else 404
        return web.json_response(error(status, "No such batch"), status=status)

    async def _list_batches(self, http: web.Request) -> web.Response:
        listed = [self._told(batch) for batch in reversed(self.batches)]
        return web.json_response({"object": "list", "data": listed, "has_more": False})

    async def _download(self, http: web.Request) -> web.Response:
        return web.Response(body=self._files[http.match_info["id"]])

    async def _answer(self, batch: Submitted) -> None:
        output: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for place, line in enumerate(batch.lines):
            head = {"id": f"r{place}", "custom_id": line["custom_id"]}
            if batch.done is not None and place >= batch.done:
                if batch.status == "expired":
                    message = "This request could not be executed before the completion window expired."
                    errors.append({**head, "response": None, "error": {"code": "batch_expired", "message": message}})
                continue
            request = ChatRequest(line["body"]["model"], line["body"]["messages"], line["body"], {})
            self.requests.append(request)
            reply = await self._reply(request)
            fine = reply.status == 200
            body = completion(request, [reply]) if fine else error(reply.status, reply.text, reply.code)
            response = {"status_code": reply.status, "request_id": "x", "body": body}
            (output if fine else errors).append({**head, "response": response, "error": None})
        for name, made in (("output_file_id", output), ("error_file_id", errors)):
            if made:
                batch.files[name] = f"file-{next(self._serial)}"
                content = "".join(json.dumps(line) + "\n" for line in reversed(made))  # in no order
                self._files[batch.files[name]] = content.encode()

    def _told(self, batch: Submitted) -> dict[str, Any]:
        counts = {"total": len(batch.lines), "completed": 0 if batch.status == "in_progress" else len(batch.lines)}
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": batch.input_file_id,
            "completion_window": "24h",
            "created_at": 1,
            "status": batch.status,
            "request_counts": {**counts, "failed": 0},
            "output_file_id": None,
            "error_file_id": None,
            **batch.files,
        }
