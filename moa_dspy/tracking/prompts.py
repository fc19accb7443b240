"""A mixture's prompts in MLflow's Prompt Registry: one per predictor, a version where its text is a new one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlflow
from dspy.signatures.signature import infer_prefix
from mlflow.genai import load_prompt, register_prompt, set_prompt_alias
from mlflow.tracing.constant import TraceTagKey

from moa_dspy.agent import adopt_lms
from moa_dspy.moa import MoA
from moa_dspy.secrets import redact
from moa_dspy.tracking.store import LIMIT_AT_END, describe, logger, mask_address, within
from moa_dspy.tracking.watch import links
from moa_dspy.values import as_text, hash_of, to_jsonable

__all__ = ["Prompt", "as_page", "load_prompts", "prompts_of", "register", "register_prompts"]

_LONGEST = 100_000  # characters that the registry keeps
_CUT = "\n[... cut: the registry keeps 100,000 characters]"
_BELOW = "\n\n--- "  # begins what stands below the instructions


@dataclass(frozen=True)
class Prompt:
    """What a predictor tells its model.

    Attributes:
        predictor: The predictor's name in the mixture.
        text: Its instructions as they are; below, fields that are described otherwise than by their names, and demos.
        tags: The predictor, the agents that use it (`role`) and their models (`model`).
    """

    predictor: str
    text: str
    tags: Mapping[str, str]

    def name(self, prefix: str) -> str:
        """Its name in the registry, which takes letters, digits, `_`, `-` and `.` alone."""
        return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{prefix}.{self.predictor}")


def register_prompts(moa: MoA, name: str = "moa") -> dict[str, int]:
    """Register a mixture's prompts in MLflow's Prompt Registry, one per predictor, as `<name>.<predictor>`.

    A text that is registered under this name already makes no new version. The text is exact: read it from
    `.template`; what stands in double braces in it is text and no variable. The mixture's traces name the versions
    from now on. A registry that cannot be reached costs a warning and at most 30 seconds.

    Args:
        moa: The mixture, compiled or not.
        name: What the prompts' names begin with.

    Returns:
        Prompt name -> the version that holds its text; empty if the registry is of no use.

    Raises:
        TypeError: If `moa` is no mixture.

    Examples:
        ```python
        moa_dspy.register_prompts(moa, "qa")  # {'qa.proposers.shared.predict': 1, 'qa.aggregator...': 1}
        tuned = dspy.GEPA(...).compile(moa, trainset=train)
        moa_dspy.register_prompts(tuned, "qa")  # version 2 of what GEPA changed
        ```
    """
    prompts = prompts_of(moa)
    try:
        return within(LIMIT_AT_END, lambda: register(moa, prompts, name))
    except Exception as error:
        logger.warning(
            "%s: the prompts are not registered. %s", mask_address(mlflow.get_tracking_uri()), describe(error)
        )
        return {}


def load_prompts(moa: MoA, name: str = "moa", alias: str = "latest") -> MoA:
    """A copy of the mixture with the instructions that the registry holds; demos are those of the mixture.

    Its traces name the versions.

    Args:
        moa: The mixture.
        name: As it was given to `register_prompts`.
        alias: Which versions: an alias that you have set, or `"latest"`. What has none stays as it is.

    Raises:
        TypeError: If `moa` is no mixture.
        ValueError: If none of its prompts is there.
    """
    prompts, copied, found = prompts_of(moa), moa.deepcopy(), dict[str, int]()
    predictors = dict(copied.named_predictors())
    for prompt in prompts:
        version = _find(prompt.name(name), alias)
        if version is not None:
            instructions = version.template.partition(_BELOW)[0]
            predictor: Any = predictors[prompt.predictor]
            predictor.signature = predictor.signature.with_instructions(instructions)
            found[prompt.name(name)] = int(version.version)
    if not found:
        raise ValueError(
            f"The registry has no prompt {prompts[0].name(name)}@{alias}, nor another one of this mixture. Register "
            f"them first with moa_dspy.register_prompts(moa, {name!r}), or name those that are there."
        )
    _link(copied, found)
    return copied


def register(
    moa: MoA, prompts: Sequence[Prompt], name: str, run_id: str | None = None, message: str | None = None
) -> dict[str, int]:
    """Register those of a mixture's prompts that have a new text; all are linked to the run."""
    versions = {}
    for prompt in prompts:
        registered = prompt.name(name)
        text = prompt.text if len(prompt.text) <= _LONGEST else prompt.text[: _LONGEST - len(_CUT)] + _CUT
        # Each text has an alias made of it: a mixture that is tuned again starts with a text of long ago.
        alias = f"text-{hash_of(text, 12)}"
        version = _find(registered, alias)
        if version is None:
            version = register_prompt(registered, text, commit_message=message, tags=dict(prompt.tags))
            set_prompt_alias(registered, alias, int(version.version))
        if run_id is not None:
            mlflow.MlflowClient().link_prompt_version_to_run(run_id, version)
        versions[registered] = int(version.version)
    _link(moa, versions)
    return versions


def _link(moa: MoA, versions: Mapping[str, int]) -> None:
    """Have the mixture's traces name these versions."""
    named = [{"name": name, "version": str(version)} for name, version in versions.items()]
    links.setdefault(moa, {})["tags"] = {TraceTagKey.LINKED_PROMPTS: json.dumps(named)}


def prompts_of(moa: MoA) -> list[Prompt]:
    """The prompts of a mixture's predictors, secrets masked.

    Raises:
        TypeError: If `moa` is no mixture.
    """
    if not isinstance(moa, MoA):
        raise TypeError(f"Prompts are registered of a moa_dspy.MoA, not of a {type(moa).__name__}.")
    adopt_lms(moa.agents)
    lms = [lm for agent in moa.agents for lm in agent.lms]
    found = []
    for name, predictor in moa.named_predictors():
        users = [agent for agent in moa.agents if any(part is predictor for part in agent.predictors())]
        tags = {"role": [agent.name for agent in users], "model": [agent.model for agent in users if agent.model]}
        named = {tag: ", ".join(dict.fromkeys(values)) for tag, values in tags.items()}
        text = redact(to_jsonable("".join(_pieces(predictor))), *lms)
        found.append(Prompt(name, text, {"predictor": name, **named}))
    return found


def as_page(prompts: Sequence[Prompt]) -> str:
    """The prompts on one page of Markdown."""
    return "\n\n\n".join(f"# {prompt.predictor} ({prompt.tags['role']})\n\n{prompt.text}" for prompt in prompts)


def _find(name: str, alias: str) -> Any:
    uri = f"prompts:/{name}@{alias}"
    return load_prompt(uri, allow_missing=True, link_to_model=False, cache_ttl_seconds=0)


def _pieces(predictor: Any) -> Iterator[str]:
    signature = predictor.signature
    yield signature.instructions
    lines = [line for name, field in signature.fields.items() if (line := _described(name, field.json_schema_extra))]
    if lines:
        yield f"{_BELOW}fields ---\n" + "\n".join(lines)
    for number, demo in enumerate(predictor.demos, start=1):
        origin = " (bootstrapped)" if demo.get("augmented") else ""
        yield f"{_BELOW}demo {number}{origin} ---\n"
        yield "\n".join(f"{name}: {as_text(value)}" for name, value in demo.items() if name != "augmented")


def _described(name: str, extra: Mapping[str, Any]) -> str:
    """How a field is introduced, where it is otherwise than by its name: optimizers change that too."""
    prefix, desc = extra.get("prefix"), extra.get("desc")
    said = [prefix if prefix != f"{infer_prefix(name)}:" else "", desc if desc != f"${{{name}}}" else ""]
    return f"{name}: {' '.join(filter(None, said))}" if any(said) else ""
