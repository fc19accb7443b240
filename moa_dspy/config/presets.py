"""Mixtures that are ready to use, and the published topologies.

| preset | models | LM calls per answer |
|---|---|---|
| `balanced` | three mid-sized models of three providers, a larger one judges | 3 + 1 = 4 |
| `max_quality` | four of the strongest models in two layers, one of them judges | 2 x 4 + 1 = 9 |
| `budget` | three small models of three providers, a small one judges | 3 + 1 = 4 |
| `together_moa` | six open models in two layers, one of them judges | 2 x 6 + 1 = 13 |
| `moa_lite` | the same six in one layer, a cheaper one judges | 6 + 1 = 7 |
| `self_moa` | six samples of one open model, which judges too | 6 + 1 = 7 |

`together_moa` and `moa_lite` have the shape of Wang et al., "Mixture-of-Agents Enhances Large Language
Model Capabilities" (2024), who count the aggregator as a layer: their three layers are `layers=2`, their
two are `layers=1`. `self_moa` has that of Li et al., "Rethinking Mixture-of-Agents: Is Mixing Different
Large Language Models Beneficial?" (2025). Their models are no longer served, so these are today's open
ones: what the papers measured says nothing about them.
"""

from __future__ import annotations

from dataclasses import dataclass

from moa_dspy.config import MoAConfig, ModelConfig
from moa_dspy.strict import nearest

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """A mixture that is ready to use.

    Attributes:
        about: What it is, in a sentence.
        calls: LM calls of one answer, if nothing fails.
        config: What to build.
    """

    about: str
    calls: int
    config: MoAConfig


def preset(name: str) -> Preset:
    """The preset of this name.

    Raises:
        ValueError: If there is none.

    Example:
        >>> preset("balanced").calls
        4
    """
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}. {nearest(name, PRESETS)}")
    return PRESETS[name]


# All names stand in DSPy's bundled model metadata, with their prices, so that costs are known.
_OPEN_MODELS: list[str | ModelConfig] = [
    "together_ai/Qwen/Qwen3.8-2.4T-A95B",
    "together_ai/moonshotai/Kimi-K3",
    "together_ai/zai-org/GLM-5.3",
    "together_ai/deepseek-ai/DeepSeek-V4.1-Flash",
    "together_ai/MiniMaxAI/MiniMax-M3",
    "together_ai/openai/gpt-oss-120b",
]

PRESETS: dict[str, Preset] = {
    "balanced": Preset(
        "Three mid-sized models of three providers propose, a larger one writes the answer.",
        4,
        MoAConfig(
            proposer_models=["openai/gpt-5.4-mini", "anthropic/claude-haiku-4-5", "gemini/gemini-3.8-flash"],
            aggregator_model="anthropic/claude-sonnet-5-5",
        ),
    ),
    "max_quality": Preset(
        "Four of the strongest models propose, read each other and propose again; one of them writes the answer.",
        9,
        MoAConfig(
            proposer_models=[
                "openai/gpt-5.6-sol",
                "anthropic/claude-opus-5-5",
                "gemini/gemini-pro-latest",
                "xai/grok-4.7",
            ],
            aggregator_model="anthropic/claude-opus-5-5",
            layers=2,
        ),
    ),
    "budget": Preset(
        "Three small models of three providers propose, a small one writes the answer.",
        4,
        MoAConfig(
            proposer_models=["openai/gpt-5.6-luna", "gemini/gemini-3.5-flash-lite", "mistral/mistral-small-2603"],
            aggregator_model="openai/gpt-5.6-luna",
        ),
    ),
    "together_moa": Preset(
        "Six open models propose, read each other and propose again; one of them writes the answer.",
        13,
        MoAConfig(proposer_models=list(_OPEN_MODELS), aggregator_model=_OPEN_MODELS[0], layers=2),
    ),
    "moa_lite": Preset(
        "Six open models propose, a cheaper one of them writes the answer.",
        7,
        MoAConfig(proposer_models=list(_OPEN_MODELS), aggregator_model=_OPEN_MODELS[3]),
    ),
    "self_moa": Preset(
        "One open model proposes six times and writes the answer of what it proposed.",
        7,
        MoAConfig(proposer_models=_OPEN_MODELS[:1], aggregator_model=_OPEN_MODELS[0], num_proposals_per_model=6),
    ),
}
