"""Bagging and boosting: one model, several prompts, each learned from other examples, and a vote."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from moa_dspy.evaluation import Metric
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.strategies import Voting

from .compiling import Compiling
from .examples import ask_examples
from .mixtures import alone
from .reports import StageReport
from .scoring import Scored
from .specialize import Specialize
from .vote_weights import OPEN
from .votes import Votes

__all__ = ["Bagging", "Boosting"]


class Bagging(Specialize):
    """One model as k proposers, each compiled on examples drawn anew, with replacement; they vote.

    After Breiman, "Bagging Predictors" (Machine Learning 24, 1996). What it gains is what prompts and demos learned
    from different examples get wrong differently.

    Args:
        metric: As `Specialize` takes it.
        proposers: k, how many.
        **settings: As `Specialize` takes them; demos, as of `dspy.BootstrapFewShot`, differ most.

    Examples:
        >>> import dspy
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> moa = MoA("question -> answer", ["simulated/alice"], strategy="voting")
        >>> bagging = Bagging("exact", proposers=2, optimizer=dspy.LabeledFewShot(k=2))
        >>> bagged = bagging.compile(moa, trainset=bundled_questions()[:8])
        >>> [agent.name for agent in bagged.panels[0].agents], bagged.strategy.name
        (['alice_1', 'alice_2'], 'voting')
    """

    def __init__(self, metric: str | Metric, *, proposers: int = 5, **settings: Any) -> None:
        super().__init__(metric, **settings)
        require_positive(proposers=proposers)
        self.proposers = proposers

    def copy(self, student: MoA) -> MoA:
        """The student's one proposer, k times, each with a prompt of its own."""
        if len(student.agents) != 2 or student.own_programs:
            raise ValueError(
                f"{type(self).__name__} makes several proposers of one without a program of its own; this mixture "
                f"has {', '.join(agent.name for agent in student.panels[0].agents)}. Give MoA(task, [model], "
                "strategy='voting')."
            )
        [agent] = student.panels[0].agents
        made = MoA(
            student.signature,
            [agent.with_program(None).rename(f"{agent.name}_{place + 1}") for place in range(self.proposers)],
            strategy=student.strategy if isinstance(student.strategy, Voting) else Voting(),
            use_specialized_prompts=True,
            limits=student.limits,
        )
        learned: Any = agent.predictors()[0]
        predictors: list[Any] = made.predictors()
        for predictor in predictors:
            predictor.signature = predictor.signature.with_instructions(learned.signature.instructions)
            predictor.demos = list(learned.demos)
        return made

    def tune(self, compiling: Compiling) -> None:
        """Tune each proposer on a draw of its own."""
        number, generator = len(compiling.train), np.random.default_rng(self.seed)
        for name in compiling.moa.panels[0].names:
            self.tune_on(compiling, name, generator.integers(number, size=number))

    def tune_on(self, compiling: Compiling, name: str, drawn: Any) -> None:
        """Tune a proposer on these examples, given by their places."""
        examples = compiling.train
        compiling.train = [examples[place] for place in drawn]
        compiling.tune(name, alone(compiling.moa, "proposers", name, ()))
        compiling.train = examples

    def settings(self) -> dict[str, Any]:
        """What decides on the result, beside the mixture and the examples."""
        return {**super().settings(), "proposers": self.proposers, "kind": type(self).__name__}


class Boosting(Bagging):
    """One model as k proposers, each compiled on what those before it get wrong; their votes are weighted.

    SAMME: Zhu et al., "Multi-class AdaBoost" (Statistics and Its Interface 2, 2009). A proposer's weight is
    `ln((1 - err) / err) + ln(k)`, with its error on the weighted examples and k wrong answers (9: open questions);
    the weight of what it got wrong grows by as much. Examples are drawn by their weights.

    Args:
        metric: As `Specialize` takes it.
        proposers: How many at most; one that does no better than chance counts nothing.
        **settings: As `Specialize` takes them.

    Examples:
        ```python
        moa = MoA("question -> answer", ["openai/gpt-5.4-mini"], strategy="voting")
        boosted = Boosting("exact", proposers=4, recipe="quick").compile(moa, trainset=train, valset=val)
        boosted.strategy.weights
        ```
    """

    def tune(self, compiling: Compiling) -> None:
        """Tune one proposer after the other, then weigh their votes."""
        moa, examples, generator = compiling.moa, compiling.train, np.random.default_rng(self.seed)
        weights, votes = np.full(len(examples), 1 / len(examples)), dict[str, float]()
        for name in moa.panels[0].names:
            self.tune_on(compiling, name, generator.choice(len(examples), size=len(examples), p=weights))
            program = alone(moa, "proposers", name, ())
            recording = ask_examples(program, examples, concurrency=self.num_threads)
            compiling.finish(StageReport(name=f"answers of {name}", usage=recording.usage))
            scored = Scored(self.metric, program.signature)
            wrong = 1 - Votes.of(program, recording, examples, scored, self.num_threads).scores[:, 0]
            # As if one more example had been half wrong: a proposer without an error is not worth everything.
            error = (float(weights @ wrong) * len(examples) + 0.5) / (len(examples) + 1)
            votes[name] = max(0.0, math.log((1 - error) / error) + math.log(OPEN))
            weights = weights * np.exp(votes[name] * wrong)
            weights /= weights.sum()
        strategy: Any = moa.strategy
        strategy.weights = votes if any(votes.values()) else {}
