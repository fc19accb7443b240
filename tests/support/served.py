"""Mixtures in files, to be served, whose models are at a server on loopback."""

from typing import Any

from .command import write
from .openai_server import ChatRequest, OpenAIServer, Reply
from .rendering import render


def answers(request: ChatRequest) -> Reply:
    """A few words of each model; `dead` refuses the key."""
    if request.model == "dead":
        return Reply("no such key", status=401)
    return Reply(render("chat", {"reasoning": "so it is", "answer": f"{request.model} says quite a lot"}))


def write_served(name: str, server: OpenAIServer, *models: str, **settings: Any) -> str:
    """A config of models at the server: the last one is the aggregator."""
    usual = {"api_base": server.url, "num_retries": 0, "cache": False, "prices": {"input": 1.0, "output": 2.0}}
    entries = [{"model": f"openai/{model}", **usual} for model in models]
    write(f"{name}.json", {"proposers": entries[:-1], "aggregator": entries[-1], **settings})
    return f"{name}.json"
