"""The mixture: panels, then a strategy, then the account of what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dspy

from moa_dspy.account import Account
from moa_dspy.accounting import Meter
from moa_dspy.agent import Agent, deliver_mail
from moa_dspy.checks import checked_inputs, refuse_below_one, unfit
from moa_dspy.errors import AggregationFailed
from moa_dspy.limits import Limits
from moa_dspy.panel import Panel, failure
from moa_dspy.prediction import MoAPrediction
from moa_dspy.proposals import Proposal, exhibit, seed_of
from moa_dspy.roster import Proposer, aggregator_agent, proposer_agents, refuse_no_aggregator
from moa_dspy.running import Batch, Call, Steps, adrive, drive
from moa_dspy.saving.savable import Savable
from moa_dspy.signatures import PROPOSALS, task_signature, tell_apart
from moa_dspy.strategies import FAILED, Case, Strategy, Unusable, Verdict, as_strategy, fall_back

if TYPE_CHECKING:
    from moa_dspy.config import MoAConfig

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
        limits: What the mixture may do.

    Raises:
        ValueError: If signature, proposers and settings do not make a mixture.
        TypeError: If an argument is of another type.

    Example:
        >>> from moa_dspy import MoA
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob", "simulated/carol"], "simulated/judge")
        >>> pred = moa(question="What is the capital of Australia?")
        >>> pred.answer, len(pred.proposals), pred.metadata.usage.calls
        ('Canberra', 3, 4)
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        proposers: Sequence[Proposer],
        aggregator: str | dspy.BaseLM | Agent | None = None,
        strategy: str | Strategy = "synthesis",
        *,
        num_proposals_per_model: int = 1,
        use_specialized_prompts: bool = False,
        layers: int = 1,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        refuse_below_one(num_proposals_per_model=num_proposals_per_model, layers=layers)
        self.signature = task_signature(signature)
        self.limits = limits or Limits()
        agents = proposer_agents(
            proposers,
            self.signature,
            samples=num_proposals_per_model,
            specialized=use_specialized_prompts,
            layers=layers,
        )
        most = len(agents) * num_proposals_per_model
        if self.limits.min_proposals > most:
            raise ValueError(
                f"min_proposals={self.limits.min_proposals} can never be reached: a layer gives {most} proposals at "
                "most. Lower it, or add proposers or samples."
            )
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
        bound.bind(self.signature, [agent.name for agent in agents])
        self.aggregator = aggregator_agent(aggregator, bound)
        tell_apart(self.named_predictors())

    @classmethod
    def from_config(cls, signature: str | type[dspy.Signature], config: MoAConfig, router: Any = None) -> MoA:
        """The mixture that a config describes.

        Args:
            signature: The task's signature.
            config: What to build; see `MoAConfig`.
            router: A `litellm.Router` for models named `router/GROUP`, instead of the config's own.
        """
        return cls(signature, **config.arguments(router))

    @property
    def panels(self) -> list[Panel]:
        """The layers of proposers, the first one first."""
        return [getattr(self, name) for name in self.panel_names]

    @property
    def agents(self) -> list[Agent]:
        """All agents: the proposers of every layer in declared order, then the aggregator."""
        return [*(agent for panel in self.panels for agent in panel.agents), self.aggregator]

    @property
    def strategy(self) -> Strategy:
        """What makes one answer of the proposals."""
        program = self.aggregator.program
        if not isinstance(program, Strategy):
            raise TypeError(f"The aggregator runs {program!r}, which is no Strategy.")
        return program

    def forward(self, **inputs: Any) -> MoAPrediction:
        return drive(self._answer(inputs))

    async def aforward(self, **inputs: Any) -> MoAPrediction:
        return await adrive(self._answer(inputs))

    def get_lm(self) -> dspy.BaseLM | None:
        """The aggregator's LM, else the first proposer's: what resampling modules start from."""
        deliver_mail(self.agents)
        return next((agent.lm for agent in [self.aggregator, *self.agents] if agent.lm is not None), None)

    def _answer(self, inputs: Mapping[str, Any]) -> Steps[MoAPrediction]:
        inputs = checked_inputs(self.signature, inputs)
        deliver_mail(self.agents)
        has_aggregator = self.aggregator.lm is not None or self.strategy.needs_aggregator
        refuse_no_aggregator(self.aggregator.lm, self.strategy)
        for agent in self.agents:
            if has_aggregator or agent is not self.aggregator:
                agent.check_key()
        account = Account(self.strategy.name, len(self.panels[0].names))
        early_stop = _EarlyStop(self, inputs) if self.strategy.early_stop else None
        seen: dict[str, str] = {}
        for panel in self.panels:
            round = yield from panel.ask({**inputs, **seen}, early_stop if panel is self.panels[-1] else None)
            account.add(round)
            if len(round.proposals) < self.limits.min_proposals:
                raise account.too_few(round, self.limits.min_proposals)
            names = [PROPOSALS, *self.signature.fields]
            seen = {PROPOSALS: exhibit(round.proposals, seed=seed_of(inputs), field_names=names).text}
        if early_stop is not None and early_stop.bug is not None:
            raise self._failed(account, early_stop.bug) from early_stop.bug
        last = account.rounds[-1]
        case = Case(self.signature, inputs, last.proposals, last.asked, has_aggregator)
        verdict = yield from self._decide(case, account)
        try:
            return account.prediction(verdict, case)
        except Exception as bug:  # in a user's verdict or in the count: what was paid for must not be lost
            raise self._failed(account, bug) from bug

    def _decide(self, case: Case, account: Account) -> Steps[Verdict]:
        meter = Meter(self.aggregator.name)
        [outcome] = yield Batch([Call(self.aggregator, {"case": case}, settings=meter.settings())])
        account.calls += meter.calls()
        error = outcome.error or unfit(outcome.value, case.task)
        if error is None:
            account.failures += [failure(self.aggregator, told, outcome.seconds) for told in outcome.value.errors]
            return outcome.value
        failed = self._failed(account, error, outcome.seconds)
        if self.limits.strict or not isinstance(error, FAILED):
            raise failed from error
        try:
            verdict = fall_back(case, self.strategy)
        except Unusable as nothing:
            raise failed from nothing
        account.fallback_used = True
        return verdict

    def _failed(self, account: Account, error: BaseException, seconds: float = 0.0) -> AggregationFailed:
        failed = failure(self.aggregator, error, seconds)
        account.failures.append(failed)
        return account.not_aggregated(failed)


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
