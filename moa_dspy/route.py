"""A route: for each question the model, committee or mixture that did best on questions like it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import dspy
import numpy as np
import numpy.typing as npt
from dspy.predict.parameter import Parameter

from moa_dspy.concurrency import Batch, Call, Steps, adrive, drive
from moa_dspy.moa import MoA
from moa_dspy.results import MoAPrediction
from moa_dspy.secrets import Keyless
from moa_dspy.signatures import tell_apart
from moa_dspy.values import as_text

__all__ = ["Embed", "Route", "RouteTable", "estimate", "text_of"]

Embed: TypeAlias = dspy.Embedder | Callable[[list[str]], Any]
Floats: TypeAlias = npt.NDArray[np.float64]


class Route(Keyless):
    """Asks, of several mixtures, the one that did best on questions like the one at hand; `FitRoute` makes it.

    `metadata.route` says which: the first option, if a question is like none known.

    Args:
        options: Name -> mixture; all of one task.
        table: What was learned.
        column: The input by which questions are alike. It may be none of the task's: then it is used for nothing else.
        embedder: Instead, what embeds the inputs' text.
    """

    def __init__(
        self, options: Mapping[str, MoA], table: RouteTable, *, column: str | None = None, embedder: Embed | None = None
    ) -> None:
        super().__init__()
        if (column is None) == (embedder is None):
            raise ValueError("Questions are alike by a column or by their embeddings: give column= or embedder=.")
        if sorted(options) != sorted(table.options):
            raise ValueError(f"The table knows {', '.join(table.options)}, and there are {', '.join(options)}.")
        self.table, self.column, self.embedder = table, column, embedder
        self.names = {name: f"option_{number}" for number, name in enumerate(options, start=1)}
        for name, attribute in self.names.items():
            setattr(self, attribute, options[name])
        tell_apart(self.named_predictors())

    @property
    def options(self) -> dict[str, MoA]:
        """The mixtures by name."""
        return {name: getattr(self, attribute) for name, attribute in self.names.items()}

    if TYPE_CHECKING:  # what DSPy declares as a mere Prediction

        def __call__(self, **inputs: Any) -> MoAPrediction: ...

        async def acall(self, **inputs: Any) -> MoAPrediction: ...

    def forward(self, **inputs: Any) -> MoAPrediction:
        return drive(self._answer(inputs))

    async def aforward(self, **inputs: Any) -> MoAPrediction:
        return await adrive(self._answer(inputs))

    def choose(self, **inputs: Any) -> str:
        """The option that is asked for these inputs."""
        if self.column is None:
            embed: Any = self.embedder
            return self.table.choose(embed([text_of(inputs)])[0])
        if self.column not in inputs:
            raise ValueError(f"Questions are routed by {self.column!r}, and it is not given: write {self.column}=...")
        return self.table.choose(str(inputs[self.column]))

    def _answer(self, inputs: Mapping[str, Any]) -> Steps[MoAPrediction]:
        name = self.choose(**inputs)
        option = self.options[name]
        known = {one: value for one, value in inputs.items() if one != self.column or one in option.signature.fields}
        [outcome] = yield Batch([Call(option, known)])
        if outcome.error is not None:
            raise outcome.error
        prediction: MoAPrediction = outcome.value
        prediction.metadata.route = name
        return prediction


class RouteTable(Parameter):
    """What was learned, the scores of all options on known questions; DSPy saves and loads it.

    Args:
        options: Their names, the one that is taken where nothing is known first.
        keys: Of each known question, its column's value, or its embedding.
        scores: Of shape (questions, options).
    """

    def __init__(self, options: Sequence[str], keys: Sequence[Any], scores: npt.ArrayLike) -> None:
        self.options, self.keys = list(options), list(keys)
        self.scores = np.asarray(scores, dtype=float)

    def choose(self, key: Any) -> str:
        """The option with the best estimate for a question with this key."""
        return self.options[int(estimate(self.keys, self.scores, [key])[0].argmax())]

    def reset(self) -> None:
        """Nothing: a reset copy takes the same routes."""

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """The table as data."""
        keys = [key if isinstance(key, str) else np.round(key, 6).tolist() for key in self.keys]
        return {"options": self.options, "keys": keys, "scores": self.scores.tolist()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `dump_state` gave."""
        there, here = ", ".join(state["options"]), ", ".join(self.options)
        if sorted(state["options"]) != sorted(self.options):
            raise ValueError(f"The file routes to {there} and this program to {here}. Build it as the file has it.")
        RouteTable.__init__(self, state["options"], state["keys"], state["scores"])


def estimate(keys: Any, scores: Floats, asked: Any) -> Floats:
    """What options will score on questions with these keys, of shape (asked, options).

    The mean score on the nearest known questions (by cosine; of a column, those of the same value), shrunk to that on
    all as if 25 more had been asked that scored like all.
    """
    if isinstance(keys[0], str):
        near = np.asarray(asked)[:, None] == np.asarray(keys)
    else:
        known, new = (np.asarray(vectors, dtype=float) for vectors in (keys, asked))
        lengths = np.linalg.norm(new, axis=1)[:, None] * np.linalg.norm(known, axis=1)
        likeness = new @ known.T / np.maximum(lengths, 1e-12)
        near = likeness >= np.sort(likeness, axis=1)[:, -min(25, len(keys)), None]
    estimates: Floats = (near @ scores + 25 * scores.mean(axis=0)) / (near.sum(axis=1, keepdims=True) + 25)
    return estimates.round(9)


def text_of(inputs: Mapping[str, Any]) -> str:
    """What is embedded of a question."""
    return "\n".join(as_text(value) for value in inputs.values())
