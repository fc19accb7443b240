"""The contract of a strategy: what it decides on, what it decides, and how it asks the aggregator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import dspy
from dspy.utils import exceptions

from moa_dspy import values
from moa_dspy.concurrency import Batch, Call, Steps, adrive, drive
from moa_dspy.meter import METER, watch_lm
from moa_dspy.rendering import SHORTEST, Rendering, escape_inputs, limit_for, render, seed_of
from moa_dspy.results import Element, Proposal
from moa_dspy.rollouts import ask_again
from moa_dspy.signatures import PROPOSALS
from moa_dspy.strategies.equality import is_refusal

if TYPE_CHECKING:
    from moa_dspy.strategies.voting import Tally

__all__ = ["FAILED", "AggregatorTimeout", "Case", "Reply", "Strategy", "Unusable", "Verdict", "fields_of"]


class Unusable(Exception):
    """The aggregator gave no usable answer, also when it was asked again."""


class AggregatorTimeout(Unusable):
    """The aggregator did not answer in time."""


FAILED = (exceptions.LMError, exceptions.AdapterParseError, Unusable)
"""How the aggregator fails; anything else is a bug in a strategy."""


@dataclass(frozen=True)
class Case:
    """What a strategy decides on.

    Attributes:
        proposals: Those that came back, in declared order; at least one.
        asked: Proposal id -> agent, for all that were asked for, in declared order: who is missing abstains.
        has_aggregator: Whether there is an LM to ask.
    """

    task: type[dspy.Signature]
    inputs: Mapping[str, Any]
    proposals: Sequence[Proposal]
    asked: Mapping[str, str]
    has_aggregator: bool = True

    def proposal(self, id: str) -> Proposal:
        """The proposal of this id."""
        return next(proposal for proposal in self.proposals if proposal.id == id)


@dataclass(frozen=True)
class Verdict:
    """What a strategy decided: the task's outputs, typed; what stands beside them goes into `MoAMetadata` as it is.

    Attributes:
        scores: Proposal id -> what verifiers gave it.
        errors: What failed on the way; they are told in `MoAMetadata.failures`.
        reasoning: How the aggregator came to it: `reasoning` of the prediction.
    """

    outputs: Mapping[str, Any]
    selected: str | None = None
    tally: Tally | None = None
    order_shown: Sequence[str] = ()
    shortened: Mapping[str, int] = field(default_factory=dict)
    elements: Sequence[Element] = ()
    flip_rate: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    repaired: bool = False
    errors: Sequence[Exception] = ()
    reasoning: str | None = None


@dataclass(frozen=True)
class Reply:
    """The aggregator's reply, what it was shown, and whether it had to be asked again."""

    prediction: dspy.Prediction
    shown: Rendering
    repaired: bool

    @property
    def told(self) -> dict[str, Any]:
        """What a `Verdict` tells of how it was asked for."""
        return {"order_shown": self.shown.order, "shortened": self.shown.shortened, "repaired": self.repaired}

    def chosen(self, name: str) -> list[Proposal]:
        """The proposals behind the label in a field of the reply."""
        return self.shown.labels[self.prediction[name]]


class Strategy(dspy.Module):
    """Makes one answer of proposals.

    Write your own: build predictors in `bind`, decide in `decide`, a generator, so that one logic serves sync and
    async: `yield from self.ask(...)` asks the aggregator. One that asks nobody just returns its verdict.

    Attributes:
        name: By which it is reported.
        needs_aggregator: Whether there must be an LM to ask.
        early_stop: Whether `is_decided` is asked as proposals come in.
        has_aggregator: Set before `bind`: whether the mixture has an LM to ask. A predictor that would never
            be asked shall not be built: an optimizer would tune it.
        asks_one_lm: Whether all LM calls are made with `ask`, of DSPy's own predictors; metering them is cheaper.

    Examples:
        ```python
        class Longest(Strategy):
            name = "longest"

            def decide(self, case):
                best = max(case.proposals, key=lambda proposal: len(proposal.outputs["answer"]))
                return Verdict(best.outputs, selected=best.id)
        ```
    """

    name: ClassVar[str]
    needs_aggregator: bool = False
    asks_one_lm: bool = False
    early_stop: bool = False
    has_aggregator: bool = True

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        """Build the predictors for a task on which agents of these names will propose; ValueError if it cannot be."""

    def decide(self, case: Case) -> Steps[Verdict] | Verdict:
        """Make the answer; `Unusable` if the aggregator gave no usable one, its `LMError` if it could not be asked."""
        raise NotImplementedError

    def is_decided(self, case: Case, pending: Mapping[str, str]) -> bool:
        """Whether the proposals in `case` decide already, whatever those still under way will say.

        Asked as proposals come in, if `early_stop` is true; those under way are then cancelled or abandoned.
        `case.asked` names those that have finished, `pending` those still under way, both with their agents.
        """
        return False

    def forward(self, case: Case) -> Verdict:
        decision = self.decide(case)
        return drive(decision) if isinstance(decision, Generator) else decision

    async def aforward(self, case: Case) -> Verdict:
        decision = self.decide(case)
        return await adrive(decision) if isinstance(decision, Generator) else decision

    def ask(
        self,
        predictor: dspy.Module,
        case: Case,
        *,
        extra: Mapping[str, Any] | None = None,
        narrow: Callable[[Any, tuple[str, ...]], type[dspy.Signature]] | None = None,
        complaint: Callable[[dspy.Prediction, Rendering], str | None] | None = None,
        rotation: int = 0,
    ) -> Steps[Reply]:
        """Show the proposals to the aggregator and ask it.

        An unusable reply is asked for once more, past the cache; the second one is raised as `Unusable`. A prompt that
        the model refuses as too long is halved; a refusal is not billed.

        Args:
            predictor: What asks, with the task's inputs and the proposals.
            case: What is decided on.
            extra: Further inputs of the predictor.
            narrow: Gives the signature to ask with, of the predictor's and the labels shown.
            complaint: Says what is wrong with a reply; None if nothing is.
            rotation: By how many places the order shown is turned; once it is round, as another rollout.
        """
        asked = fields_of(predictor)
        given = {**escape_inputs(_inputs_for(asked, case)), **(extra or {})}
        limit = limit_for(dspy.settings.lm, given, case.proposals)
        names = (*values.fields_of(case.task), *asked)
        adapter: Any = dspy.settings.adapter or dspy.ChatAdapter()
        # Most of DSPy's adapters ask again in JSON by themselves if they cannot read a reply. That is the repair then,
        # seen by its second LM call for one asking; else it is another rollout.
        falls_back = not isinstance(adapter, dspy.JSONAdapter) and getattr(adapter, "use_json_adapter_fallback", False)
        asked_again, lms = False, list[Any]()

        def is_repaired() -> bool:
            return asked_again or (falls_back and any(lm.asked > 1 for lm in lms))

        while True:
            shown = render(case.proposals, seed=seed_of(case.inputs), rotation=rotation, limit=limit, field_names=names)
            call: dict[str, Any] = {**given, PROPOSALS: shown.text}
            narrowed = narrow(getattr(predictor, "signature", None), tuple(shown.labels)) if narrow else None
            # An adapter made on the fly, as dspy.Refine's is, hands out hints by the very signature class.
            if narrowed is not None and "<locals>" not in type(dspy.settings.adapter).__qualname__:
                call["signature"], narrowed = narrowed, None
            settings: dict[str, Any] = {}
            if is_repaired() and falls_back:
                settings["adapter"] = copy.copy(adapter)
                settings["adapter"].use_json_adapter_fallback = False
            # Once all have stood in each place, the same prompt is sent again: another rollout then.
            if (lm := _watch_lm(2 * (rotation // len(shown.labels)) + asked_again)) is not None:
                settings["lm"] = lm
                lms.append(lm)
            [outcome] = yield Batch([Call(predictor, call, settings)])
            error: Any = outcome.error
            if error is None:
                flaw = _find_flaw(outcome.value, lm, case, narrowed)
                if not flaw and not (flaw := complaint(outcome.value, shown) if complaint else None):
                    return Reply(outcome.value, shown, is_repaired())
                error = Unusable(flaw)
            shorter = min(limit or len(shown.text), len(shown.text)) // 2
            if isinstance(error, exceptions.ContextWindowExceededError) and shorter >= SHORTEST:
                limit = shorter
            elif not is_repaired() and _is_repairable(error, falls_back, lms):
                asked_again = True
            else:
                raise error


def _watch_lm(rollout: int) -> Any:
    lm, meter = dspy.settings.lm, dspy.settings.get(METER)
    meter = None if meter is None or meter.everywhere else meter
    return None if lm is None else watch_lm(ask_again(lm, rollout) if rollout else lm, meter)


def _is_repairable(error: Exception, falls_back: bool, lms: Sequence[Any]) -> bool:
    if isinstance(error, exceptions.AdapterParseError):
        # An adapter that could have asked again and did not has shown a part of the reply already.
        return not falls_back
    # Retries that were used up are enough: a dead model would be asked as often again. A body that could not be read is
    # a provider's hiccup as well, whatever a backend calls it.
    is_passing = exceptions.is_retryable_lm_error(error) and not any(lm.tries for lm in lms)
    is_unread = type(error) in (exceptions.LMProviderError, exceptions.LMUnexpectedError)
    return is_passing or is_unread or isinstance(error, Unusable)


def fields_of(predictor: dspy.Module) -> dict[str, Any]:
    """The fields of the prompts that a predictor, or a program of several, sends."""
    # A predictor would look for others in all that it holds, its history included.
    predictors: list[Any] = [predictor] if isinstance(predictor, dspy.Predict) else predictor.predictors()
    return {name: field for one in predictors for name, field in values.fields_of(one.signature).items()}


def _find_flaw(reply: dspy.Prediction, lm: Any, case: Case, narrowed: type[dspy.Signature] | None) -> str | None:
    """What makes a reply that could be read no answer, or none to the narrowed signature; None if nothing does."""
    if lm is not None and lm.cut is not None:
        return f"The reply is not whole: it was ended by {lm.cut}."
    outputs = {name: reply[name] for name in values.outputs_of(case.task) if name in reply}
    for name, value in outputs.items():
        if is_refusal(value) and not any(is_refusal(proposal.outputs.get(name)) for proposal in case.proposals):
            return f"The aggregator refuses what no proposer refused: {value:.200}"
    try:
        values.refuse_nulls(outputs, case.task, None if lm is None else lm.said)
        values.check_showable(outputs)
        if narrowed is not None:
            values.typed_outputs(reply, narrowed)
    except values.IncompleteProposal as error:
        return str(error)
    return None


def _inputs_for(asked: Mapping[str, Any], case: Case) -> dict[str, Any]:
    """The task's inputs as these fields take them: a conversation as text, if they want text."""
    given = {name: case.inputs[name] for name in values.inputs_of(case.task) if name in case.inputs}
    for name, value in given.items():
        if isinstance(value, dspy.History) and name in asked and asked[name].annotation is str:
            turns = ["\n".join(f"{said}: {values.as_text(it)}" for said, it in turn.items()) for turn in value.messages]
            given[name] = "\n\n".join(turns) or "nothing yet"
    return given
