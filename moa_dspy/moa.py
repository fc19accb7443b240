"""The mixture: panels, then a strategy, then the account of what happened."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import dspy
from dspy.utils.exceptions import ContextWindowExceededError

from moa_dspy.agent import Agent, adopt_lms, check_keys
from moa_dspy.allowance import ALLOWANCE, Allowance
from moa_dspy.certainty import Calibration, weigh_evidence, with_promise
from moa_dspy.concurrency import Batch, Call, Steps, adrive, drive
from moa_dspy.errors import AggregationFailed, ProposersOutOfContext, TooFewProposals
from moa_dspy.limits import Limits, give_limits, require_positive
from moa_dspy.models import prices_of
from moa_dspy.panel import KEPT, Panel, Round, failure_of, tell_late
from moa_dspy.proposers import Proposer, as_aggregator, as_proposers
from moa_dspy.results import Failure, MoAMetadata, MoAPrediction, Proposal, Vote
from moa_dspy.saving import Savable
from moa_dspy.signatures import task_signature, tell_apart
from moa_dspy.strategies import (
    FAILED,
    AggregatorTimeout,
    Case,
    Strategy,
    Unusable,
    Verdict,
    Voting,
    as_strategy,
    fall_back,
)
from moa_dspy.streaming import AnswerStream, as_one_predictor
from moa_dspy.usage import LMCall
from moa_dspy.values import check_inputs, outputs_of

__all__ = ["MoA"]


class MoA(Savable):
    """A Mixture of Agents: several models propose in parallel, a strategy makes one answer.

    Args:
        signature: Any DSPy signature, string or class, of any types.
        proposers: Model names, LMs, `Agent`s or modules, mixed as you like; one twice gives two answers.
        aggregator: The model that judges; None means `dspy.settings.lm`, and for voting that none is asked.
        strategy: `"synthesis"`, `"selection"`, `"voting"`, `"fusion"`, or a `Strategy`.
        num_proposals_per_model: Samples of each proposer.
        use_specialized_prompts: Each proposer has a prompt of its own, so that an optimizer tunes one
            per model; else all share one.
        layers: Layers of proposers; each agent of a later layer sees the proposals of the layer before
            it. Wang et al. (2024) count the aggregator too: their three layers are `layers=2`.
        limits: What the mixture may do, as `Limits` or as a dict of its fields.

    Raises:
        ValueError: If signature, proposers and settings do not make a mixture.
        TypeError: If an argument is of another type.

    Examples:
        >>> from moa_dspy import MoA
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob", "simulated/carol"], "simulated/judge")
        >>> pred = moa(question="What is the capital of Australia?")
        >>> pred.answer, len(pred.proposals), pred.metadata.usage.calls
        ('Canberra', 3, 4)
    """

    calibration: Calibration | None = None
    """What `Calibrate` has learned: how sure an answer is, and below which confidence none is given."""

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        proposers: Sequence[Proposer],
        aggregator: str | dspy.BaseLM | Agent | None = None,
        strategy: Literal["synthesis", "selection", "voting", "fusion"] | Strategy = "synthesis",
        *,
        num_proposals_per_model: int = 1,
        use_specialized_prompts: bool = False,
        layers: int = 1,
        limits: Limits | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        require_positive(num_proposals_per_model=num_proposals_per_model, layers=layers)
        self.signature = task_signature(signature)
        self.limits = Limits.of(limits)
        agents = as_proposers(
            proposers,
            self.signature,
            samples=num_proposals_per_model,
            specialized=use_specialized_prompts,
            layers=layers,
        )
        _check_reachable(self.limits, len(agents) * num_proposals_per_model)
        self.use_specialized_prompts = use_specialized_prompts
        self.own_programs = [agent.name for agent in agents if agent.program is not None]
        self.panel_names = ["proposers", *(f"layer_{number}" for number in range(2, layers + 1))]
        for number, name in enumerate(self.panel_names, start=1):
            panel = Panel(
                self.signature,
                agents,
                layer=number,
                samples=num_proposals_per_model,
                specialized=use_specialized_prompts,
                limits=self.limits,
            )
            setattr(self, name, panel)
        bound = as_strategy(strategy)
        bound.has_aggregator = aggregator is not None or bound.needs_aggregator
        bound.bind(self.signature, [agent.name for agent in agents])
        self.aggregator = as_aggregator(aggregator, bound)
        tell_apart(self.named_predictors())

    @property
    def panels(self) -> list[Panel]:
        """The layers of proposers, the first one first."""
        return [getattr(self, name) for name in self.panel_names]

    @property
    def agents(self) -> list[Agent]:
        """All agents: the proposers of every layer in declared order, then the aggregator."""
        return [*(agent for panel in self.panels for agent in panel.agents), self.aggregator]

    @property
    def certainty(self) -> Calibration | None:
        """The calibration, with the promise of the limits if they make one; ValueError if it cannot be kept."""
        return with_promise(self.calibration, self.limits.max_error)

    def drop_calibration(self) -> None:
        """Forget the calibration, and the promise of the limits, which rests on it."""
        self.calibration = None
        give_limits(self, self.limits.model_copy(update={"max_error": None}))

    @property
    def strategy(self) -> Strategy:
        """What makes one answer of the proposals."""
        program = self.aggregator.program
        if not isinstance(program, Strategy):
            raise TypeError(f"The aggregator runs {program!r}, which is no Strategy.")
        return program

    if TYPE_CHECKING:  # what DSPy declares as a mere Prediction

        def __call__(self, **inputs: Any) -> MoAPrediction: ...

        async def acall(self, **inputs: Any) -> MoAPrediction: ...

    def forward(self, *positional: Any, **inputs: Any) -> MoAPrediction:
        stream = AnswerStream.of(self, awaited=False)
        prediction = drive(self._answer(positional, inputs, stream))
        if stream is not None:
            stream.end(prediction)
        return prediction

    async def aforward(self, *positional: Any, **inputs: Any) -> MoAPrediction:
        stream = AnswerStream.of(self, awaited=True)
        prediction = await adrive(self._answer(positional, inputs, stream))
        if stream is not None:
            await stream.aend(prediction)
        return prediction

    def __deepcopy__(self, memo: dict[int, Any]) -> MoA:
        adopt_lms(self.agents)  # or each copy would adopt what was put in, and tell of it again
        return super().__deepcopy__(memo)

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Those of the agents, and the mixture's settings; itself where DSPy looks for one predictor only."""
        return as_one_predictor(self) or super().named_parameters()

    def get_lm(self) -> dspy.BaseLM | None:
        """The aggregator's LM, else the first proposer's: what resampling modules start from."""
        adopt_lms(self.agents)
        return next((agent.lm for agent in [self.aggregator, *self.agents] if agent.lm is not None), None)

    def _answer(
        self, positional: Sequence[Any], inputs: Mapping[str, Any], stream: AnswerStream | None
    ) -> Steps[MoAPrediction]:
        if positional:
            names = ", ".join(f"{name}=..." for name in self.signature.input_fields)
            raise TypeError(f"Inputs are given by name, as to any DSPy module: write moa({names}).")
        inputs = check_inputs(self.signature, inputs)
        agents = self.agents
        adopt_lms(agents)
        has_aggregator = self._has_aggregator()
        check_keys(agents if has_aggregator else agents[:-1])
        _check_prices(self.limits, agents if has_aggregator else agents[:-1])
        account = _Account(self)
        try:
            return (yield from self._ask(inputs, account, stream, has_aggregator))
        except BaseException as interrupt:
            if not isinstance(interrupt, Exception):  # it has no account of its own
                interrupt.metadata = account.metadata()  # type: ignore[attr-defined]
            raise
        finally:
            account.allowance.end()

    def _ask(
        self, inputs: Mapping[str, Any], account: _Account, stream: AnswerStream | None, has_aggregator: bool
    ) -> Steps[MoAPrediction]:
        allowance = account.allowance
        early_stop = _EarlyStop(self, inputs) if self.strategy.early_stop else None
        seen: Sequence[Proposal] = ()
        asked: Mapping[str, str] = {}
        kept = found[1] if (found := KEPT.get()) is not None and found[0] is self else ()
        for number, panel in enumerate(self.panels):
            stops = early_stop if panel is self.panels[-1] else None
            shares = len(self.panels) - number + has_aggregator
            share = Allowance(self.limits.proposer_timeout or allowance.remaining / shares, parent=allowance)
            round = yield from panel.ask(inputs, seen, stops, () if number else kept, share)
            account.add(round)
            if round.interrupt is not None:
                raise round.interrupt
            raises = self.limits.on_degraded == "raise"
            needed = len(round.asked) if raises else self.limits.min_proposals
            if len(round.proposals) < needed:
                if raises or not seen:
                    raise account.too_few(needed)
                break  # the last full layer decides
            seen, asked = round.proposals, round.asked
        if early_stop is not None and early_stop.bug is not None:
            raise account.failed(early_stop.bug) from early_stop.bug
        case = Case(self.signature, inputs, seen, asked, has_aggregator)
        account.decided_on = next(proposal.layer for proposal in seen)
        verdict = yield from self._decide(case, account, stream)
        try:
            prediction = account.prediction(verdict, case)
        except Exception as bug:  # in a user's verdict: what was paid for must not be lost
            raise account.failed(bug) from bug
        if self.limits.on_degraded == "raise" and prediction.metadata.degraded:
            raise account.failed(Unusable("The answer is degraded (Limits.on_degraded)."))
        return prediction

    def _has_aggregator(self) -> bool:
        """Whether there is an LM that the strategy may ask.

        Raises:
            ValueError: If it needs one, saying where it could come from.
        """
        if self.aggregator.lm is not None:
            return True
        if self.strategy.needs_aggregator and dspy.settings.lm is None:
            raise ValueError(
                f"The strategy {self.strategy.name!r} needs an aggregator, and there is none. Give "
                "aggregator='openai/gpt-5', or configure one for all: dspy.configure(lm=...). Only voting does without."
            )
        return self.strategy.needs_aggregator

    def _decide(self, case: Case, account: _Account, stream: AnswerStream | None) -> Steps[Verdict]:
        meter, settings = self.aggregator.bind()
        if stream is not None:
            settings |= stream.settings()
        share = Allowance(self.limits.aggregator_timeout or account.allowance.remaining, parent=account.allowance)
        call = Call(self.aggregator, {"case": case}, {**settings, ALLOWANCE: share})
        # A strategy that asks nobody runs right here: there is nothing to abandon.
        try:
            [outcome] = yield Batch([call], share.remaining if case.has_aggregator else None)
        finally:
            share.end()
            account.calls += meter.calls()
        error = outcome.error or _reject(outcome.value, case.task)
        if not outcome.finished:
            error = AggregatorTimeout(tell_late(share, self.limits, "aggregator_timeout", meter))
        if error is None:
            account.failures += [failure_of(self.aggregator, one, outcome.seconds) for one in outcome.value.errors]
            return outcome.value
        failed = account.failed(error, outcome.seconds)
        if self.limits.on_degraded == "raise" or not isinstance(error, FAILED):
            raise failed from error
        try:
            verdict = fall_back(case, self.strategy)
        except Unusable as nothing:
            raise failed from nothing
        account.fallback_used = True
        return verdict


def _check_reachable(limits: Limits, most: int) -> None:
    for name in ("min_proposals", "quorum"):
        if (wanted := getattr(limits, name) or 0) > most:
            raise ValueError(
                f"{name}={wanted} can never be reached: a layer gives {most} proposals at most. Lower it, or add "
                "proposers or samples."
            )


def _check_prices(limits: Limits, agents: Sequence[Agent]) -> None:
    """Find out before anything is paid for whether a limit in USD can be kept.

    Raises:
        ValueError: Naming the models whose prices are not known.
    """
    if limits.max_cost_usd is None:
        return
    lms = [lm for agent in agents for lm in agent.lms or [dspy.settings.lm] if isinstance(lm, dspy.BaseLM)]
    if unpriced := sorted({lm.model for lm in lms if prices_of(lm) is None}):
        raise ValueError(
            f"max_cost_usd={limits.max_cost_usd:g} cannot be kept: no price is known of "
            f"{', '.join(unpriced)}. State it as prices={{'input': ..., 'output': ...}}, USD per million "
            "tokens, or limit max_calls."
        )


class _Account:
    """Collects what happens, so that nothing paid for is lost, whether the call answers or raises."""

    def __init__(self, moa: MoA) -> None:
        self.started = time.perf_counter()
        self.moa = moa
        self.certainty = moa.certainty  # a promise that cannot be kept is refused before anything is paid for
        limits = moa.limits
        self.allowance = Allowance(
            limits.timeout,
            max_calls=limits.max_calls,
            max_tokens=limits.max_tokens,
            max_cost_usd=limits.max_cost_usd,
            price=prices_of,
        )
        self.rounds: list[Round] = []
        self.calls: list[LMCall] = []
        self.failures: list[Failure] = []
        self.fallback_used = False
        self.decided_on: int | None = None

    def add(self, round: Round) -> None:
        """Enter what came of a panel."""
        self.rounds.append(round)
        self.calls += round.calls
        self.failures += round.failures

    def too_few(self, needed: int) -> TooFewProposals:
        """The error for a layer that gave too few proposals, with their cause."""
        last = self.rounds[-1]
        causes = "; ".join(f"{failure.agent}: {failure.error}: {failure.message}" for failure in last.failures)
        message = (
            f"{len(last.proposals)} proposals came back, and at least {needed} are needed. What came and what it cost "
            f"is in error.proposals and error.metadata. {causes}"
        )
        too_long = len(last.errors) == len(last.failures) and all(
            isinstance(error, ContextWindowExceededError) for error in last.errors
        )
        error = (ProposersOutOfContext if too_long else TooFewProposals)(message, self.metadata())
        error.__cause__ = next(iter(last.errors), None)
        error.status = getattr(error.__cause__, "status", None)
        return error

    def failed(self, error: BaseException, seconds: float = 0.0) -> AggregationFailed:
        """The error for an aggregator that gave no answer."""
        failure = failure_of(self.moa.aggregator, error, seconds)
        self.failures.append(failure)
        message = (
            f"The aggregator gave no answer ({failure.error}: {failure.message}). The proposals that were paid for are "
            "in error.proposals, the account is in error.metadata."
        )
        failed = AggregationFailed(message, self.metadata())
        failed.status = getattr(error, "status", None)
        return failed

    def metadata(self, verdict: Verdict | None = None) -> MoAMetadata:
        """The account so far."""
        strategy = self.moa.strategy.name
        decided = verdict or Verdict({})
        shortened = [round.shortened for round in self.rounds] + [decided.shortened]
        return MoAMetadata(
            strategy=strategy,
            answered_by="voting" if self.fallback_used else strategy,
            num_proposers=len(self.moa.panels[0].names),
            proposals_asked=sum(len(round.asked) + len(round.abandoned) for round in self.rounds),
            proposals_received=sum(len(round.proposals) for round in self.rounds),
            layer=self.decided_on,
            all_proposals=[proposal for round in self.rounds for proposal in round.proposals],
            failures=self.failures,
            calls=self.calls,
            seconds=time.perf_counter() - self.started,
            selected=decided.selected,
            order_shown=list(decided.order_shown),
            flip_rate=decided.flip_rate,
            scores=dict(decided.scores),
            elements=list(decided.elements),
            shortened={id: lost for part in shortened for id, lost in part.items()},
            stopped_early=any(round.abandoned for round in self.rounds),
            fallback_used=self.fallback_used,
            repaired=decided.repaired,
        )

    def prediction(self, verdict: Verdict, case: Case) -> MoAPrediction:
        """The answer with its account."""
        metadata = self.metadata(verdict)

        def count() -> tuple[float | None, list[Vote]]:
            tally = verdict.tally or Voting().count(case)
            votes = [
                Vote(answer=dict(candidate.values), proposals=list(candidate.voters), weight=candidate.weight)
                for candidate in tally.candidates
            ]
            return tally.agreement if tally.winner else None, votes

        metadata.count_with(count)
        outputs = verdict.outputs
        if (calibration := self.certainty) is not None:
            evidence = weigh_evidence(
                case,
                outputs,
                self.moa.strategy,
                calibration.agents,
                flip_rate=verdict.flip_rate,
                fallback_used=self.fallback_used,
            )
            metadata.confidence = calibration.confidence(evidence)
            metadata.abstained = calibration.is_unsure(metadata.confidence)
            if metadata.abstained and calibration.on_unsure == "abstain":
                outputs = dict.fromkeys(outputs)
        return MoAPrediction.of(outputs, case.task, metadata, verdict.reasoning)


class _EarlyStop:
    """Asks the strategy whether the proposals so far decide; a bug in it must not lose them."""

    def __init__(self, moa: MoA, inputs: Mapping[str, Any]) -> None:
        self.moa = moa
        self.inputs = inputs
        self.bug: Exception | None = None

    def __call__(self, proposals: Sequence[Proposal], finished: Mapping[str, str], pending: Mapping[str, str]) -> bool:
        if self.bug is not None or len(proposals) < self.moa.limits.min_proposals:
            return False
        case = Case(self.moa.signature, self.inputs, proposals, finished)
        try:
            return self.moa.strategy.is_decided(case, pending)
        except Exception as bug:
            self.bug = bug
            return False


def _reject(verdict: Any, task: type[dspy.Signature]) -> TypeError | None:
    """What is wrong with what a strategy decided; None if nothing is."""
    if not isinstance(verdict, Verdict):
        return TypeError(f"The strategy decided on {verdict!r:.200}, which is no Verdict.")
    lacking = [name for name in outputs_of(task) if name not in verdict.outputs]
    return (
        TypeError(f"The strategy's verdict lacks {', '.join(lacking)}, which the task asks for.") if lacking else None
    )
