"""Programs of several mixtures: a cascade asks on where it is not sure, a route asks who did best on such questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import dspy
import numpy as np
import numpy.typing as npt
from dspy.predict.parameter import Parameter

from moa_dspy.concurrency import Batch, Call, Steps, adrive, drive
from moa_dspy.errors import AggregationFailed, MoAError
from moa_dspy.moa import MoA
from moa_dspy.panel import KEPT, failure_of, proposal_ids
from moa_dspy.proposers import Proposer
from moa_dspy.results import MoAMetadata, MoAPrediction
from moa_dspy.secrets import Keyless
from moa_dspy.signatures import tell_apart
from moa_dspy.strategies import Case, Voting
from moa_dspy.values import as_text, outputs_of

__all__ = ["Cascade", "Embed", "Route", "RouteTable", "asks_aggregator", "estimate", "text_of"]

Embed: TypeAlias = dspy.Embedder | Callable[[list[str]], Any]
Floats: TypeAlias = npt.NDArray[np.float64]


class _Program(Keyless):
    """One logic, asked and awaited."""

    if TYPE_CHECKING:  # what DSPy declares as a mere Prediction

        def __call__(self, **inputs: Any) -> MoAPrediction: ...

        async def acall(self, **inputs: Any) -> MoAPrediction: ...

    def forward(self, **inputs: Any) -> MoAPrediction:
        return drive(self._answer(inputs))

    async def aforward(self, **inputs: Any) -> MoAPrediction:
        return await adrive(self._answer(inputs))

    def _answer(self, inputs: Mapping[str, Any]) -> Steps[MoAPrediction]:
        raise NotImplementedError


class Cascade(_Program):
    """Stages of mixtures, the cheapest first: each is asked only if the one before is unsure.

    A stage stops the cascade when its calibrated confidence reaches its threshold (`Calibrate(max_error=...)` sets
    both; `FitCascade` finds the stages too). Proposals are kept: an agent of an earlier stage, known by its name, is
    not asked again; nor is a vote, if that is all that is left, that can no longer change. `metadata` is the account of
    the whole, `metadata.stage` says which stage answered. A later stage that fails leaves the earlier one's answer,
    flagged by `abstained`.

    Args:
        stages: Calibrated mixtures; the last one may be any mixture, agent, module or model's name.

    Examples:
        ```python
        sure = Calibrate(max_error=0.05).compile(cheap, trainset=examples)
        cascade = Cascade([sure, MoA(task, [*models, "openai/gpt-5"], "anthropic/claude-opus-5")])
        cascade(question="Why is the sky blue?").metadata.stage  # 1 or 2
        ```
    """

    def __init__(self, stages: Sequence[MoA | Proposer]) -> None:
        super().__init__()
        if len(stages) < 2 or not isinstance(stages[0], MoA):
            raise ValueError(
                "A cascade has two stages or more and begins with a mixture: Cascade([moa, 'openai/gpt-5'])."
            )
        self.signature = stages[0].signature
        # Whoever answers alone is a mixture of one, so that there is one account of all.
        built = [one if isinstance(one, MoA) else MoA(self.signature, [one], strategy="voting") for one in stages]
        for number, (stage, later) in enumerate(pairwise(built), start=1):
            _check_pair(number, stage, later)
        for number, stage in enumerate(built, start=1):  # on attributes, where DSPy finds their predictors
            setattr(self, f"stage_{number}", stage)
        tell_apart(self.named_predictors())

    @property
    def stages(self) -> list[MoA]:
        """The mixtures, the first one first."""
        return [part for part in vars(self).values() if isinstance(part, MoA)]

    def _answer(self, inputs: Mapping[str, Any]) -> Steps[MoAPrediction]:
        answered: Any = None
        for number, stage in enumerate(self.stages, start=1):
            before = None if answered is None else answered.metadata
            KEPT.set((stage, [one for one in before.all_proposals if one.layer == 1] if before else []))
            try:
                [outcome] = yield Batch([Call(stage, inputs)])
            finally:
                KEPT.set(None)
            if outcome.error is not None:
                if before is None:
                    raise outcome.error
                _enter_failure(before, stage, outcome.error)
                break
            answered = outcome.value
            account = answered.metadata
            account.stage = number
            if before is not None:
                _add(account, before, account)
            account.abstained = account.abstained and not self._is_settled(number, answered, inputs)
            if not account.abstained:
                break
        return cast(MoAPrediction, answered)

    def _is_settled(self, number: int, answered: MoAPrediction, inputs: Mapping[str, Any]) -> bool:
        """Whether all that is left is a vote, without a promise, that cannot change the answer."""
        stage, left = self.stages[number - 1], self.stages[number:]
        if not left or any(asks_aggregator(one) or len(one.panels) > 1 for one in left) or _has_threshold(left[-1]):
            return False
        last = left[-1]
        owners = {id: id.partition("#")[0] for id in proposal_ids(last.panels[0])}
        asked = {id: owners[id] for id in proposal_ids(stage.panels[0]) if id in owners}
        proposals = [one for one in answered.metadata.all_proposals if one.id in asked]
        case = Case(self.signature, inputs, proposals, asked, has_aggregator=False)
        pending = {id: agent for id, agent in owners.items() if id not in asked}
        if not proposals or not last.strategy.is_decided(case, pending):
            return False
        outputs = last.strategy.forward(case).outputs
        return all(outputs[name] == answered[name] for name in outputs_of(self.signature))


def asks_aggregator(moa: MoA) -> bool:
    """Whether an answer of the mixture may take a call of its aggregator, so that code alone does not give it."""
    return not isinstance(moa.strategy, Voting) or moa.aggregator.lm is not None


def _has_threshold(moa: MoA) -> bool:
    return (certainty := moa.certainty) is not None and certainty.threshold is not None


def _add(account: MoAMetadata, one: MoAMetadata, other: MoAMetadata) -> None:
    account.calls = [*one.calls, *other.calls]
    account.failures = [*one.failures, *other.failures]
    account.seconds = one.seconds + other.seconds


def _enter_failure(account: MoAMetadata, stage: MoA, error: BaseException) -> None:
    """The answer of the stage before stays, as the next one gave none; what was paid for it is in the account."""
    account.failures = [*account.failures, failure_of(stage.aggregator, error, 0.0)]
    if not isinstance(error, MoAError):
        message = f"A later stage could not be asked: {error}. What the earlier ones gave is in error.metadata."
        raise AggregationFailed(message, account) from error
    _add(account, account, error.metadata)


def _check_pair(number: int, stage: MoA, later: MoA) -> None:
    if not _has_threshold(stage):
        raise ValueError(
            f"Stage {number} has no threshold, so it would never be sure, or always. Calibrate it with a promise: "
            "Calibrate(max_error=0.1).compile(mixture, trainset=...)."
        )
    task, other = ([[*one.input_fields], [*one.output_fields]] for one in (stage.signature, later.signature))
    if task != other:
        raise ValueError(
            f"Stages {number} and {number + 1} have different tasks ({task} and {other}): the one could not stand in "
            "for the other. Give them one signature."
        )
    for name in set(stage.panels[0].names) & set(later.panels[0].names):
        model, other = (getattr(one.panels[0], name).model for one in (stage, later))
        if model != other:
            raise ValueError(
                f"In stages {number} and {number + 1}, {name} is {model} and {other}: what the one says would be taken "
                "for what the other says. Give one of them another name: Agent(model, name=...)."
            )


class Route(_Program):
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
    """What was learned, of shape (questions, options): the scores of all options on known questions; DSPy saves it.

    The first option is taken where nothing is known. A question's key is its column's value, or its embedding.
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
