"""A mixture as a tool that other agents call: `consult`, over the Model Context Protocol."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel

from moa_dspy.agent import Agent, check_keys
from moa_dspy.errors import MoAError
from moa_dspy.moa import MoA
from moa_dspy.results import MoAPrediction
from moa_dspy.serving.conversation import inputs_for, message_field
from moa_dspy.values import to_jsonable

__all__ = ["Consultation", "Opinion", "as_server"]


class Opinion(BaseModel):
    """What one proposer said, or why it said nothing."""

    agent: str
    model: str | None
    outputs: dict[str, Any] | None = None
    error: str | None = None


class Consultation(BaseModel):
    """The answer and how it came about; `cost_usd` is null where a price is not known."""

    outputs: dict[str, Any]
    opinions: list[Opinion]
    agreement: float | None
    degraded: bool
    calls: int
    tokens: int
    cost_usd: float | None
    seconds: float


def as_server(moa: MoA, name: str = "moa-dspy") -> MCPServer[Any]:
    """A server with one tool, `consult`, which asks the mixture and reports each proposer that has answered.

    Raises:
        ValueError: If the mixture takes more than a question, or a key is missing.

    Examples:
        ```python
        as_server(moa).run("stdio")
        ```
    """
    message_field(moa.signature)
    check_keys(moa.agents)
    total = sum(len(panel.names) * panel.samples for panel in moa.panels)
    server = MCPServer[Any](name)

    async def consult(question: str, context: Context[Any]) -> Consultation:
        finished: asyncio.Queue[str] = asyncio.Queue()

        async def report() -> None:
            for done in range(1, total + 1):
                await context.report_progress(done, total, await finished.get())

        reporting = asyncio.create_task(report())
        watch = _Watch(moa, asyncio.get_running_loop(), finished)
        try:
            with dspy.context(callbacks=[*dspy.settings.callbacks, watch]):
                return _tell(await moa.acall(**inputs_for(moa.signature, [{"role": "user", "content": question}])))
        except (MoAError, ValueError) as error:
            raise ToolError(str(error)) from error
        finally:
            reporting.cancel()

    server.add_tool(consult, title="Consult several models", description=_DESCRIPTION)
    return server


_DESCRIPTION = (
    "Ask several language models side by side and get one answer made of theirs, with what each of them said. It takes "
    "longer and costs more than one model: use it for what is hard, or must be right."
)


class _Watch(BaseCallback):
    """Says which proposer has finished; some run in threads."""

    def __init__(self, moa: MoA, loop: asyncio.AbstractEventLoop, finished: asyncio.Queue[str]) -> None:
        self.moa, self.loop, self.finished = moa, loop, finished
        self.names: dict[str, str] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if isinstance(instance, Agent) and instance is not self.moa.aggregator:
            self.names[call_id] = instance.name

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if call_id in self.names:
            said = f"{self.names[call_id]} {'answered' if exception is None else 'failed'}"
            self.loop.call_soon_threadsafe(self.finished.put_nowait, said)


def _tell(prediction: MoAPrediction) -> Consultation:
    metadata, usage = prediction.metadata, prediction.metadata.usage
    opinions = [Opinion(agent=p.agent, model=p.model, outputs=to_jsonable(p.outputs)) for p in metadata.all_proposals]
    opinions += [Opinion(agent=f.agent, model=f.model, error=f"{f.error}: {f.message}") for f in metadata.failures]
    return Consultation(
        outputs=to_jsonable(dict(prediction.items())),
        opinions=opinions,
        agreement=metadata.agreement,
        degraded=metadata.degraded,
        calls=usage.calls,
        tokens=usage.prompt_tokens + usage.completion_tokens,
        cost_usd=usage.cost_usd,
        seconds=metadata.seconds,
    )
