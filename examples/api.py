"""An HTTP endpoint that streams the answer, with FastAPI: `uvicorn api:app` serves it.

$ python examples/api.py
Lima
"""

from collections.abc import AsyncIterator
from typing import Any

import dspy
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from models import AGGREGATOR, PROPOSERS

from moa_dspy import MoA

app = FastAPI()
moa = MoA("question -> answer", PROPOSERS, AGGREGATOR)
stream: Any = dspy.streamify(moa, stream_listeners=[dspy.streaming.StreamListener("answer")])


@app.get("/ask")
async def ask(question: str) -> StreamingResponse:
    """The answer, as it is written."""

    async def chunks() -> AsyncIterator[str]:
        async for item in stream(question=question):
            if isinstance(item, dspy.streaming.StreamResponse):
                yield item.chunk

    return StreamingResponse(chunks(), media_type="text/plain")


if __name__ == "__main__":
    print(TestClient(app).get("/ask", params={"question": "What is the capital of Peru?"}).text)
