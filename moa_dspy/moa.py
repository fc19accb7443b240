"""The mixture: panels, then a strategy, then the account of what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dspy
from dspy.adapters.utils import annotation_allows_none
from dspy.utils.exceptions import AdapterParseError, LMError

from moa_dspy.account import Account
from moa_dspy.accounting import Meter
from moa_dspy.agent import Agent, deliver_mail
from moa_dspy.errors import AggregationFailed, TooFewProposals
from moa_dspy.limits import Limits
from moa_dspy.panel import Panel, failure
from moa_dspy.prediction import MoAPrediction
from moa_dspy.proposals import exhibit, seed_of
from moa_dspy.roster import Proposer, aggregator_agent, proposer_agents
from moa_dspy.running import Batch, Call, Steps, adrive, drive
from moa_dspy.signatures import PROPOSALS, task_signature
from moa_dspy.strategies import Case, Strategy, Unusable, Verdict, as_strategy, fallback

if TYPE_CHECKING:
    from moa_dspy.config import MoAConfig

__all__ = ["MoA"]


class MoA(dspy.Module):
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
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> pred = moa(question="What is 17 * 23?")
        >>> pred.answer, len(pred.proposals), pred.metadata.usage.calls
        ('391', 2, 3)
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
        _refuse_below_one(num_proposals_per_model=num_proposals_per_model, layers=layers)
        self.signature = task_signature(signature)
        self.limits = limits or Limits()
        agents = proposer_agents(
            proposers,
            self.signature,
            samples=num_proposals_per_model,
            specialized=use_specialized_prompts,
            layers=layers,
        )
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
        return next((agent.lm for agent in [self.aggregator, *self.agents] if agent.lm is not None), None)

    def _answer(self, inputs: Mapping[str, Any]) -> Steps[MoAPrediction]:
        _check_inputs(self.signature, inputs)
        deliver_mail(self.agents)
        for agent in self.agents:
            agent.check_key()
        account = Account(self.strategy.name, len(self.panels[0].names))
        seen: dict[str, str] = {}
        for panel in self.panels:
            last = panel is self.panels[-1]
            round = yield from panel.ask({**inputs, **seen}, self._is_decided(inputs) if last else None)
            account.add(round)
            if len(round.proposals) < self.limits.min_proposals:
                raise TooFewProposals(_too_few(round.failures, len(round.proposals), self.limits), account.metadata())
            names = [PROPOSALS, *self.signature.fields]
            seen = {PROPOSALS: exhibit(round.proposals, seed=seed_of(inputs), field_names=names).text}
        has_aggregator = self.aggregator.lm is not None or self.strategy.needs_aggregator
        case = Case(self.signature, inputs, round.proposals, round.asked, has_aggregator)
        verdict = yield from self._decide(case, account)
        return account.prediction(verdict, case)

    def _is_decided(self, inputs: Mapping[str, Any]) -> Any:
        if not self.strategy.early_stop:
            return None
        return lambda proposals, finished, pending: (
            bool(proposals) and self.strategy.is_decided(Case(self.signature, inputs, proposals, finished), pending)
        )

    def _decide(self, case: Case, account: Account) -> Steps[Verdict]:
        meter = Meter(self.aggregator.name)
        [outcome] = yield Batch([Call(self.aggregator, {"case": case}, settings=meter.settings())])
        account.calls += meter.calls()
        error = outcome.error
        if error is None:
            return outcome.value
        account.failures.append(failure(self.aggregator, error, outcome.seconds))
        if self.limits.strict or not isinstance(error, (LMError, AdapterParseError, Unusable)):
            raise AggregationFailed(_not_aggregated(account), account.metadata()) from error
        account.fallback_used = True
        try:
            return fallback(case)
        except Unusable as nothing:
            raise AggregationFailed(_not_aggregated(account), account.metadata()) from nothing


def _refuse_below_one(**numbers: int) -> None:
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}={number!r} leaves nobody to ask. Give a whole number from 1.")


def _check_inputs(task: type[dspy.Signature], inputs: Mapping[str, Any]) -> None:
    fields = task.input_fields
    missing = [
        name
        for name, field in fields.items()
        if name not in inputs and field.is_required() and not annotation_allows_none(field.annotation)
    ]
    if missing:
        raise ValueError(
            f"The input {', '.join(missing)} is missing, so the proposers would answer another question. "
            f"Given: {', '.join(inputs) or 'none'}; the task's inputs: {', '.join(fields)}."
        )
    ours = [name for name in ("config", "demos", "lm", "signature") if name in inputs and name not in fields]
    if ours:
        raise ValueError(
            f"`{ours[0]}` cannot be given per call: every agent has its own. Set it on an Agent, or under "
            "dspy.context(...)."
        )


def _too_few(failures: Sequence[Any], received: int, limits: Limits) -> str:
    causes = "; ".join(f"{failure.agent}: {failure.error}: {failure.message}" for failure in failures)
    return (
        f"{received} proposals came back, and at least {limits.min_proposals} are needed. What came and what it cost "
        f"is in error.proposals and error.metadata. {causes}"
    )


def _not_aggregated(account: Account) -> str:
    failed = account.failures[-1]
    return (
        f"The aggregator gave no answer ({failed.error}: {failed.message}). The proposals that were paid for are in "
        "error.proposals, the account is in error.metadata."
    )
