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
from .votes import Floats, Votes

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
        """Tune one proposer after the other, each on a draw of its own."""
        examples, number, generator = compiling.train, len(compiling.train), np.random.default_rng(self.seed)
        weights = np.full(number, 1 / number)
        for name in compiling.moa.panels[0].names:
            compiling.train = [examples[place] for place in generator.choice(number, size=number, p=weights)]
            compiling.tune(name, alone(compiling.moa, "proposers", name, ()))
            compiling.train = examples
            weights = self.weigh(compiling, name, weights)

    def weigh(self, compiling: Compiling, name: str, weights: Floats) -> Floats:
        """The chances of the examples to be drawn for the next proposer: always the same."""
        return weights

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
        proposers: How many at most; one that does no better than chance hardly counts.
        **settings: As `Specialize` takes them.

    Examples:
        ```python
        moa = MoA("question -> answer", ["openai/gpt-5.4-mini"], strategy="voting")
        boosted = Boosting("exact", proposers=4, recipe="quick").compile(moa, trainset=train, valset=val)
        boosted.strategy.weights
        ```
    """

    def weigh(self, compiling: Compiling, name: str, weights: Floats) -> Floats:
        """Higher chances for what this proposer gets wrong; and the weight of its vote."""
        program, examples, threads = alone(compiling.moa, "proposers", name, ()), compiling.train, self.num_threads
        recording = ask_examples(program, examples, concurrency=threads)
        compiling.finish(StageReport(name=f"answers of {name}", usage=recording.usage))
        scored = Scored(self.metric, program.signature)
        wrong = 1 - Votes.of(program, recording, examples, scored, threads).scores[:, 0]
        # As if one more example had been half wrong: a proposer without an error is not worth everything.
        error = (float(weights @ wrong) * len(wrong) + 0.5) / (len(wrong) + 1)
        vote = max(1e-6, math.log((1 - error) / error) + math.log(OPEN))
        strategy: Any = compiling.moa.strategy
        strategy.weights = {**strategy.weights, name: vote}
        grown: Floats = weights * np.exp(vote * wrong)
        return grown / grown.sum()
