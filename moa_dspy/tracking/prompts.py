"""A mixture's prompts as text, and in MLflow's Prompt Registry: one per predictor, a version where it changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dspy
import mlflow
from dspy.signatures.signature import infer_prefix
from mlflow.exceptions import MlflowException

from moa_dspy.agent import adopt_lms
from moa_dspy.moa import MoA
from moa_dspy.secrets import redact
from moa_dspy.values import as_text, to_jsonable

from .guard import Guard, bounded
from .naming import prompt_names

__all__ = ["Prompt", "prompts_of", "register", "register_prompts"]

LONGEST = 100_000
"""Characters of a prompt that the registry keeps."""

_CUT = "\n[... cut; whole among the artifacts of the run, under prompts]"

SECONDS = 30.0
"""How long a program waits for the registry."""


@dataclass(frozen=True)
class Prompt:
    """What a predictor tells its model.

    Attributes:
        predictor: The predictor's name in the mixture.
        text: Its instructions as they are; below, fields that are described otherwise than by their names, and demos.
        role: The agents that use it.
        model: Their models.
    """

    predictor: str
    text: str
    role: str
    model: str

    @property
    def template(self) -> str:
        """The text as the registry takes it: cut if it is too long."""
        return self.text if len(self.text) <= LONGEST else f"{self.text[: LONGEST - len(_CUT)]}{_CUT}"


def register_prompts(moa: MoA, name: str = "moa") -> dict[str, int]:
    """Register a mixture's prompts in MLflow's Prompt Registry, one per predictor, as `<name>.<predictor>`.

    A prompt gets a version only where its text is another than that of the latest one. The text is exact: read it
    from `.template`; what stands in double braces in it is text and no variable. Its tags say which agents use it
    (`role`), and which models (`model`). A registry that cannot be reached costs a warning and at most 30 seconds.

    Args:
        moa: The mixture, compiled or not.
        name: What the prompts' names begin with.

    Returns:
        Prompt name -> its latest version; empty if the registry is of no use.

    Raises:
        TypeError: If `moa` is no mixture.

    Example:
        ```python
        moa_dspy.register_prompts(moa, "qa")  # {'qa.proposers.shared.predict': 1, 'qa.aggregator...': 1}
        tuned = dspy.GEPA(...).compile(moa, trainset=train)
        moa_dspy.register_prompts(tuned, "qa")  # version 2 of what GEPA changed
        ```
    """
    if not isinstance(moa, MoA):
        raise TypeError(f"Prompts are registered of a moa_dspy.MoA, not of a {type(moa).__name__}.")
    prompts = prompts_of(moa)
    with bounded():
        return Guard(SECONDS).run("register the prompts", lambda: register(prompts, name)) or {}


def register(prompts: list[Prompt], name: str, run_id: str | None = None, message: str | None = None) -> dict[str, int]:
    """Register prompts that changed; all are linked to the run."""
    client = mlflow.MlflowClient()
    names = prompt_names(f"{name}.{prompt.predictor}" for prompt in prompts)
    versions = {}
    for prompt in prompts:
        registered = names[f"{name}.{prompt.predictor}"]
        version = _latest(client, registered)
        if version is None or version.template != prompt.template:
            tags = {"predictor": prompt.predictor, "role": prompt.role, "model": prompt.model}
            version = client.register_prompt(registered, prompt.template, commit_message=message, tags=tags)
        if run_id is not None:
            client.link_prompt_version_to_run(run_id, version)
        versions[registered] = int(version.version)
    return versions


def prompts_of(moa: MoA) -> list[Prompt]:
    """The prompts of a mixture's predictors, secrets masked."""
    adopt_lms(moa.agents)
    lms = [lm for agent in moa.agents for lm in agent.lms]
    return [_prompt(moa, name, predictor, lms) for name, predictor in moa.named_predictors()]


def _prompt(moa: MoA, name: str, predictor: Any, lms: list[dspy.BaseLM]) -> Prompt:
    agents = [agent for agent in moa.agents if any(part is predictor for part in agent.predictors())]
    roles = dict.fromkeys(agent.name for agent in agents)
    models = dict.fromkeys(agent.model for agent in agents if agent.model)
    text = redact(to_jsonable("".join(_text(predictor))), *lms)
    return Prompt(name, text, ", ".join(roles), ", ".join(models))


def _text(predictor: Any) -> Iterator[str]:
    signature = predictor.signature
    yield signature.instructions
    lines = [line for name, field in signature.fields.items() if (line := _described(name, field.json_schema_extra))]
    if lines:
        yield "\n\n--- fields ---\n" + "\n".join(lines)
    for number, demo in enumerate(predictor.demos, start=1):
        origin = " (bootstrapped)" if demo.get("augmented") else ""
        yield f"\n\n--- demo {number}{origin} ---\n"
        yield "\n".join(f"{name}: {as_text(value)}" for name, value in demo.items() if name != "augmented")


def _described(name: str, extra: Mapping[str, Any]) -> str:
    """How a field is introduced, where it is otherwise than by its name: optimizers change that too."""
    prefix, desc = extra.get("prefix"), extra.get("desc")
    said = [prefix if prefix != f"{infer_prefix(name)}:" else "", desc if desc != f"${{{name}}}" else ""]
    return f"{name}: {' '.join(filter(None, said))}" if any(said) else ""


def _latest(client: mlflow.MlflowClient, name: str) -> Any:
    try:
        return client.get_prompt_version_by_alias(name, "latest")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
