"""Fine-tuning per model: each agent's LM is trained on what that agent itself said, where it was right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.agent import Agent
from moa_dspy.evaluation.metrics import Metric
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA

from .feedback import Scored
from .interrupted import FinetuneInterrupted
from .lessons import Lessons, collect
from .students import check_mixture, checked_examples
from .trainable import check_trainable, refuse_nothing

__all__ = ["Finetune", "Training"]


@dataclass(frozen=True)
class Training:
    """One LM that was trained.

    Attributes:
        agent: Whose it is.
        model: What was trained.
        examples: How many prompts with their replies it was trained on.
        tuned_model: What came of it; None if the job failed.
    """

    agent: str
    model: str
    examples: int
    tuned_model: str | None = None


class Finetune(Teleprompter):
    """Trains the LMs of a mixture through DSPy's providers, each on the traces of its own role.

    The mixture, or a teacher of the same shape, answers the trainset; of what each agent said, that is kept which
    scores by the metric: for a proposer its own proposal, for the aggregator the mixture's answer. So no model
    learns another's words, nor its own mistakes behind a right answer of the panel.

    Args:
        metric: As `Specialize` takes it; None keeps everything.
        agents: Who is trained; by default all agents.
        train_kwargs: What the provider takes: for all, or agent -> its own.
        threshold: The lowest score that is worth learning from.
        exclude_demos: Train without the demos of the prompts, and drop them from the trained agents.
        num_threads: Examples under way at once.

    Raises:
        ValueError: If a setting makes no sense.

    Attributes:
        trainings: Of the last compile, in the order of the mixture.

    Example:
        ```python
        moa = MoA("question -> answer", ["openai/gpt-4.1-nano", "openai/gpt-4.1-mini"], "openai/gpt-4.1")
        tuned = Finetune("exact", agents=["gpt_4_1_nano"]).compile(moa, trainset=train)
        ```
    """

    def __init__(
        self,
        metric: str | Metric | None = None,
        *,
        agents: Sequence[str] | None = None,
        train_kwargs: Mapping[str, Any] | None = None,
        threshold: float = 1.0,
        exclude_demos: bool = False,
        num_threads: int = 8,
    ) -> None:
        super().__init__()
        require_positive(num_threads=num_threads)
        self.metric = metric
        self.agents = agents
        self.train_kwargs = dict(train_kwargs or {})
        self.threshold = threshold
        self.exclude_demos = exclude_demos
        self.num_threads = num_threads
        self.trainings: list[Training] = []

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self,
        student: MoA,
        *,
        trainset: Sequence[dspy.Example],
        teacher: MoA | None = None,
    ) -> MoA:
        """Train, and give a copy of the student with the trained LMs.

        Args:
            student: The mixture; it stays as it is.
            trainset: Examples to learn from.
            teacher: A mixture of the same shape, whose answers are learned; by default the student itself.

        Raises:
            TypeError: If the student is no mixture.
            ValueError: If it could not be right: an agent cannot be trained, or has nothing to learn from.
            FinetuneInterrupted: If a job failed; it carries the mixture with the LMs that were trained.
        """
        check_mixture(student, "Finetune")
        trainset = checked_examples(student, trainset, self.metric)
        metric = None if self.metric is None else Scored(self.metric, student.signature)
        names = self._names(student)
        for name in names:
            check_trainable(name, _agents(student, name)[0])
        lessons = collect(student, teacher or student, trainset, metric, self.threshold, self.num_threads)
        prompts = {name: lessons.of(name, self.exclude_demos) for name in names}
        refuse_nothing(prompts, lessons.examples, lessons.failures)
        return self._trained(student, lessons, prompts)

    def _trained(self, student: MoA, lessons: Lessons, prompts: Mapping[str, list[Any]]) -> MoA:
        moa = student.deepcopy()
        jobs: dict[str, Any] = {}
        for name, data in prompts.items():
            lm: Any = _agents(moa, name)[0].lm
            lm.kill()  # frees what a local model that is served holds
            jobs[name] = lm.finetune(data, lessons.format, self._kwargs_of(name))
        self.trainings = []
        errors: dict[str, Exception] = {}
        for name, job in jobs.items():
            tuned = job.result()
            failed = isinstance(tuned, Exception)
            if failed:
                errors[name] = tuned
            else:
                self._take_over(_agents(moa, name), tuned)
            self.trainings.append(Training(name, job.model, len(prompts[name]), None if failed else tuned.model))
        if errors:
            what = "; ".join(f"{name}: {error}" for name, error in errors.items())
            raise FinetuneInterrupted(f"Training failed for {what}. The others are in error.program.", moa)
        return moa

    def _take_over(self, agents: Sequence[Agent], lm: dspy.BaseLM) -> None:
        for agent in agents:
            agent.lm = lm
            if self.exclude_demos and agent.program is not None:
                parts: list[Any] = agent.program.predictors()
                for part in parts:
                    part.demos = []

    def _names(self, moa: MoA) -> list[str]:
        known = list(dict.fromkeys(agent.name for agent in moa.agents))
        unknown = [name for name in [*(self.agents or ()), *self._own_kwargs()] if name not in known]
        if unknown:
            raise ValueError(f"There is no agent {unknown[0]!r} to train. There are {', '.join(known)}.")
        return [name for name in known if self.agents is None or name in self.agents]

    def _own_kwargs(self) -> list[str]:
        nested = [name for name, value in self.train_kwargs.items() if isinstance(value, Mapping)]
        return nested if len(nested) == len(self.train_kwargs) else []

    def _kwargs_of(self, name: str) -> Any:
        return self.train_kwargs.get(name) if self._own_kwargs() else self.train_kwargs or None


def _agents(moa: MoA, name: str) -> list[Agent]:
    """An agent in all its layers."""
    return [agent for agent in moa.agents if agent.name == name]
