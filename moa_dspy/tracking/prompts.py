"""A mixture's prompts in MLflow's Prompt Registry: one per predictor, a version where its text is a new one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import mlflow
from dspy.signatures.signature import infer_prefix
from mlflow.genai import load_prompt, register_prompt, set_prompt_alias
from mlflow.tracing.constant import TraceTagKey

from moa_dspy.agent import adopt_lms
from moa_dspy.moa import MoA
from moa_dspy.secrets import redact
from moa_dspy.tracking.store import LIMIT_AT_END, address, describe, logger, within
from moa_dspy.tracking.watch import links
from moa_dspy.values import as_text, hash_of, to_jsonable

__all__ = ["Prompts", "as_page", "load_prompts", "prompts_of", "register", "register_prompts"]

# Predictor -> its text (instructions; below, fields that are described otherwise than by their names, and demos), and
# the registry's tags: the predictor, the agents that use it (`role`) and their models (`model`).
Prompts = Mapping[str, tuple[str, Mapping[str, str]]]

_BELOW = "\n\n--- "  # begins what stands below the instructions


def register_prompts(moa: MoA, name: str = "moa") -> dict[str, int]:
    """Register a mixture's prompts in MLflow's Prompt Registry, one per predictor, as `<name>.<predictor>`.

    A text that is registered under this name already makes no new version. The text is exact: read it from
    `.template`; what stands in double braces in it is text and no variable. The mixture's traces name the versions
    from now on. A registry that cannot be reached, or refuses a text (it takes 100,000 characters), costs a warning and
    at most 30 seconds.

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
        logger.warning("%s: the prompts are not registered. %s", address(), describe(error))
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
    names = {predictor: _registered(name, predictor) for predictor in prompts_of(moa)}
    copied, found = moa.deepcopy(), dict[str, int]()
    for predictor, part in dict[str, Any](copied.named_predictors()).items():
        version = _find(names[predictor], alias)
        if version is not None:
            part.signature = part.signature.with_instructions(version.template.partition(_BELOW)[0])
            found[names[predictor]] = int(version.version)
    if not found:
        raise ValueError(
            f"The registry has no prompt {next(iter(names.values()))}@{alias}, nor another one of this mixture. "
            f"Register them first with moa_dspy.register_prompts(moa, {name!r}), or name those that are there."
        )
    _link(copied, found)
    return copied


def register(
    moa: MoA, prompts: Prompts, name: str, run_id: str | None = None, message: str | None = None
) -> dict[str, int]:
    """Register those of a mixture's prompts that have a new text; all are linked to the run."""
    versions = {}
    for predictor, (text, tags) in prompts.items():
        registered = _registered(name, predictor)
        # Each text has an alias made of it: a mixture that is tuned again starts with a text of long ago.
        alias = f"text-{hash_of(text, 12)}"
        version = _find(registered, alias)
        if version is None:
            version = register_prompt(registered, text, commit_message=message, tags=dict(tags))
            set_prompt_alias(registered, alias, int(version.version))
        if run_id is not None:
            mlflow.MlflowClient().link_prompt_version_to_run(run_id, version)
        versions[registered] = int(version.version)
    _link(moa, versions)
    return versions


def prompts_of(moa: MoA) -> Prompts:
    """The prompts of a mixture's predictors, secrets masked."""
    if not isinstance(moa, MoA):
        raise TypeError(f"Prompts are registered of a moa_dspy.MoA, not of a {type(moa).__name__}.")
    adopt_lms(moa.agents)
    found = {}
    for name, predictor in moa.named_predictors():
        users = [agent for agent in moa.agents if any(part is predictor for part in agent.predictors())]
        tags = {"role": [agent.name for agent in users], "model": [agent.model for agent in users if agent.model]}
        named = {tag: ", ".join(dict.fromkeys(values)) for tag, values in tags.items()}
        found[name] = redact(to_jsonable("".join(_pieces(predictor)))), {"predictor": name, **named}
    return found


def as_page(prompts: Prompts) -> str:
    """The prompts on one page of Markdown."""
    return "\n\n\n".join(f"# {name} ({tags['role']})\n\n{text}" for name, (text, tags) in prompts.items())


def _registered(name: str, predictor: str) -> str:
    """A prompt's name in the registry, which takes letters, digits, `_`, `-` and `.` alone."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{name}.{predictor}")


def _find(name: str, alias: str) -> Any:
    return load_prompt(f"prompts:/{name}@{alias}", allow_missing=True, link_to_model=False, cache_ttl_seconds=0)


def _link(moa: MoA, versions: Mapping[str, int]) -> None:
    """Have the mixture's traces name these versions."""
    named = [{"name": name, "version": str(version)} for name, version in versions.items()]
    links.setdefault(moa, {})["tags"] = {TraceTagKey.LINKED_PROMPTS: json.dumps(named)}


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
