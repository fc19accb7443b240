"""What a saved mixture is, read from its file without building anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from moa_dspy.saving.saved_files import about, read
from moa_dspy.saving.saved_format import BOUND, SavedField, SavedLM, SavedMixture, SavedPredictor, checked

__all__ = ["SavedAgent", "SavedMoA", "SavedPrompt", "describe"]


class SavedAgent(BaseModel):
    """An agent of a saved mixture.

    Attributes:
        name: Its name.
        layer: The number of its layer, from 1; None for the aggregator.
        model: Its LM's model, if it has one of its own.
        settings: What else is saved of the LM: `temperature`, `api_base`, ...
        left_out: What is not in the file: secrets, and what is no JSON.
        unsaveable: Why the LM cannot be made from the file, if it cannot.
        weight: What its vote counts, where votes are weighted.
        instructions: What it is told beside the task's instructions.
        program: The class of its program, where that is one of the user's own.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    layer: int | None
    model: str | None
    settings: dict[str, Any]
    left_out: list[str]
    unsaveable: str | None = None
    weight: float | None = None
    instructions: str | None = None
    program: str | None = None


class SavedPrompt(BaseModel):
    """A predictor of a saved mixture: its name in the program, its prompt and its demos."""

    model_config = ConfigDict(frozen=True)

    name: str
    instructions: str
    demos: list[dict[str, Any]]


class SavedMoA(BaseModel):
    """A saved mixture.

    Attributes:
        path: The file.
        format: The version of its format.
        versions: Of what wrote it: `moa-dspy`, `dspy`, `python`, ...
        signature: The task's fields and types, as a string signature.
        instructions: The task's own instructions.
        types: The classes that the signature names.
        strategy: The strategy's name.
        options: The strategy's options.
    """

    model_config = ConfigDict(frozen=True)

    path: Path
    format: int
    versions: dict[str, str]
    signature: str
    instructions: str
    types: list[str]
    strategy: str
    options: dict[str, Any]
    num_proposals_per_model: int
    use_specialized_prompts: bool
    layers: int
    limits: dict[str, Any]
    agents: list[SavedAgent]
    prompts: list[SavedPrompt]

    @property
    def demos(self) -> int:
        """How many demos its prompts hold in all."""
        return sum(len(prompt.demos) for prompt in self.prompts)


def describe(path: str | Path) -> SavedMoA:
    """What a file that `MoA.save` wrote holds; nothing is built, imported or asked.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: Naming the file, if it holds no mixture, or one of a newer format.

    Example:
        ```python
        saved = describe("moa.json")
        print(saved.signature, saved.strategy, [agent.model for agent in saved.agents])
        ```
    """
    saved, state = read(path)
    with about(path):
        return SavedMoA(
            path=Path(path),
            format=saved.format,
            versions={"moa-dspy": saved.version, **state["metadata"]["dependency_versions"]},
            signature=f"{_fields(saved.signature.inputs)} -> {_fields(saved.signature.outputs)}",
            instructions=saved.signature.instructions,
            types=list(saved.signature.types),
            strategy=saved.strategy.name,
            options=saved.strategy.options,
            num_proposals_per_model=saved.num_proposals_per_model,
            use_specialized_prompts=saved.use_specialized_prompts,
            layers=saved.layers,
            limits=saved.limits,
            agents=list(_agents(saved, state)),
            prompts=[_prompt(name, part) for name, part in state.items() if isinstance(part, dict) and "demos" in part],
        )


def _fields(fields: list[SavedField]) -> str:
    return ", ".join(field.name if field.type == "str" else f"{field.name}: {field.type}" for field in fields)


def _agents(saved: SavedMixture, state: Mapping[str, Any]) -> Iterator[SavedAgent]:
    weights = saved.strategy.options.get("weights") or {}
    for layer in range(1, saved.layers + 1):
        for proposer in saved.proposers:
            lm = _lm(state, f"{'proposers' if layer == 1 else f'layer_{layer}'}.{proposer.name}")
            own = proposer.model_dump(include={"name", "instructions", "program"})
            yield SavedAgent(**own, **lm, layer=layer, weight=weights.get(proposer.name))
    yield SavedAgent(name="aggregator", layer=None, **_lm(state, "aggregator"))


def _lm(state: Mapping[str, Any], agent: str) -> dict[str, Any]:
    saved: SavedLM = checked(SavedLM, state.get(f"{agent}.{BOUND}"), f"{agent}.{BOUND}")
    settings = {name: value for name, value in (saved.lm or {}).items() if name not in ("model", "_dspy_lm_class")}
    told = saved.model_dump(include={"left_out", "unsaveable"})
    return {"model": (saved.lm or {}).get("model"), "settings": settings, **told}


def _prompt(name: str, state: Mapping[str, Any]) -> SavedPrompt:
    saved: SavedPredictor = checked(SavedPredictor, state, name)
    return SavedPrompt(name=name, instructions=saved.signature.instructions, demos=state["demos"])
