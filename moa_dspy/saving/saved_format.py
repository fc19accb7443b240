"""The format of saved mixtures, version 1: what `MoA.save` writes beside DSPy's own state.

A saved mixture is a JSON file of DSPy's: one entry per parameter, under its name. Three kinds of entries are
ours: `moa_dspy` (a `SavedMixture`: the shape and the settings, enough to build it again), `*.bound` (a `SavedLM`
per agent), and DSPy's own entry of each predictor, its demos written as plain JSON. Types are written as Python
writes them (`list[Item] | None`) and read through a table, never evaluated. Nothing that a file names is imported,
and no address or key in it is used, unless the caller says that he trusts it (`allow_unsafe_lm_state`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import dspy
from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = [
    "BOUND",
    "FORMAT",
    "MIXTURE",
    "SavedField",
    "SavedLM",
    "SavedMixture",
    "SavedPredictor",
    "SavedProposer",
    "SavedSignature",
    "SavedStrategy",
    "SavedType",
    "checked",
]

FORMAT = 1
MIXTURE, BOUND = "moa_dspy", "bound"

Scalar = str | int | float | bool | None


class _Part(BaseModel):
    # What a later version adds is refused, not ignored: it would be missing from the mixture, unseen.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, protected_namespaces=())

    def state(self) -> dict[str, Any]:
        """The part as JSON-able data, without what was not set."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)


class SavedField(_Part):
    """A field of a signature or of a pydantic model.

    Attributes:
        type: Its type as text; left out for an input of a string signature that names none.
        constraints: Pydantic's: `ge`, `max_length`, ...
        extra: What else its `json_schema_extra` holds.
        lacks: What of it could not be written.
    """

    name: str
    type: str = "str"
    desc: str | None = None
    constraints: dict[str, Scalar] = {}
    default: Any = None
    default_factory: Literal["list", "dict", "set"] | None = None
    title: str | None = None
    description: str | None = None
    alias: str | None = None
    examples: list[Any] | None = None
    extra: dict[str, Any] = {}
    lacks: list[str] = []


class SavedType(_Part):
    """A class that a signature's types name.

    Attributes:
        cls: Where it was defined, `module:Name`.
        name: What it is called, where that is not the name it has in the file.
        fields: Of a pydantic model.
        root: Of a pydantic root model: the type of its root.
        config: Of a pydantic model.
        members: Of an enum, name -> value.
        base: Of an enum: what else its members are.
        lacks: What of it could not be written; a class without fields, root and members cannot be rebuilt at all.
    """

    cls: str = Field(alias="class")
    name: str | None = None
    doc: str | None = None
    fields: list[SavedField] | None = None
    root: str | None = None
    config: dict[str, Any] = {}
    members: dict[str, Scalar] | None = None
    base: Literal["str", "int", "float", "IntEnum", "StrEnum"] | None = None
    lacks: list[str] = []


class SavedSignature(_Part):
    """The task's signature."""

    name: str
    instructions: str
    inputs: list[SavedField]
    outputs: list[SavedField]
    types: dict[str, SavedType] = {}


class SavedProposer(_Part):
    """A proposer; `program` names the class of a program of the user's own, which no file can bring back."""

    name: str
    instructions: str | None = None
    program: str | None = None


class SavedStrategy(_Part):
    """A strategy; `cls` names the class of one of the user's own."""

    name: str
    cls: str | None = Field(default=None, alias="class")
    options: dict[str, Any] = {}


class SavedMixture(_Part):
    """The shape and the settings of a mixture."""

    format: int
    version: str
    signature: SavedSignature
    proposers: list[SavedProposer] = Field(min_length=1)
    strategy: SavedStrategy
    num_proposals_per_model: int = Field(ge=1)
    use_specialized_prompts: bool
    layers: int = Field(ge=1)
    limits: dict[str, Any]

    @classmethod
    def read(cls, state: Any) -> SavedMixture:
        """The mixture that a file holds.

        Raises:
            ValueError: If the format is a newer one, or this is none.
        """
        found = state.get("format") if isinstance(state, Mapping) else None
        if isinstance(found, int) and found > FORMAT:
            raise ValueError(
                f"The mixture was saved in format {found} (by moa-dspy {state.get('version')}), and this version "
                f"reads formats up to {FORMAT}. Upgrade moa-dspy, or save it again with this version."
            )
        return checked(cls, state, MIXTURE)


class SavedLM(_Part):
    """The LM of an agent.

    Attributes:
        lm: The state that `dspy.BaseLM.load_state` takes, without secrets; of a simulated model, its name and
            settings; None if the agent has none.
        left_out: What of it is not in the file: secrets, and what is no JSON.
        unsaveable: Why the LM cannot be rebuilt from the file, if it cannot.
        rollout: The id and the temperature of the sample that the agent was asked for.
    """

    lm: dict[str, Any] | None
    left_out: list[str] = []
    unsaveable: str | None = None
    rollout: tuple[int, float | None] | None = None


class _Told(BaseModel):
    prefix: str
    description: str


class _Prompt(BaseModel):
    instructions: str
    fields: list[_Told]


class SavedPredictor(BaseModel):
    """DSPy's own entry of a predictor, as far as it is read here; the demos of a pickled one are `dspy.Example`s."""

    model_config = ConfigDict(arbitrary_types_allowed=True, hide_input_in_errors=True)

    signature: _Prompt
    demos: list[dict[str, Any] | dspy.Example]
    lm: dict[str, Any] | None = None


def checked(cls: Any, state: Any, where: str) -> Any:
    """The part of a file, checked.

    Raises:
        ValueError: Naming the key that is wrong.
    """
    try:
        return cls.model_validate(state)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, (where, *first["loc"])))
        raise ValueError(f"This is no saved mixture: {path}: {first['msg']}.") from None
