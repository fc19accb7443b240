"""Fine-tuning per model: each agent's LM is trained on what that agent itself said, where it was right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
from dspy.clients.utils_finetune import infer_data_format
from dspy.teleprompt import Teleprompter
from dspy.utils.exceptions import AdapterParseError, LMError

from moa_dspy.agent import Agent
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.errors import MoAError
from moa_dspy.evaluation import Metric, prediction_of
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA

from .examples import CompileInterrupted, check_mixture, checked_examples
from .mixtures import specialized
from .scoring import Scored

__all__ = ["Finetune", "Training"]

Step = tuple[str, dict[str, Any], Any]  # a predictor's name, its inputs, its outputs


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

    The mixture answers the trainset; of what each agent said, that is kept which scores by the metric: for a proposer
    its own proposal, for the aggregator the mixture's answer. So no model learns another's words, nor its own mistakes
    behind a right answer of the panel.

    Args:
        metric: As `Specialize` takes it; None keeps everything.
        agents: Who is trained; by default all agents.
        train_kwargs: What the provider takes.
        threshold: The lowest score that is worth learning from.
        num_threads: Examples under way at once.

    Raises:
        ValueError: If a setting makes no sense.

    Attributes:
        trainings: Of the last compile, in the order of the mixture.

    Examples:
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
        num_threads: int = 8,
    ) -> None:
        super().__init__()
        require_positive(num_threads=num_threads)
        self.metric, self.threshold = metric, threshold
        self.agents, self.train_kwargs = agents, dict(train_kwargs or {})
        self.num_threads = num_threads
        self.trainings: list[Training] = []

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self, student: MoA, *, trainset: Sequence[dspy.Example]
    ) -> MoA:
        """Train, and give a copy of the student with the trained LMs.

        Args:
            student: The mixture; it stays as it is.
            trainset: Examples to learn from.

        Raises:
            TypeError: If the student is no mixture.
            ValueError: If it could not be right: an agent cannot be trained, or has nothing to learn from.
            CompileInterrupted: If a job failed; it carries the mixture with the LMs that were trained.
        """
        check_mixture(student, "Finetune")
        trainset = checked_examples(student, trainset, self.metric)
        scored = None if self.metric is None else Scored(self.metric, student.signature)
        if scored is not None:
            scored.try_on_gold(trainset[0])
        known = list(dict.fromkeys(agent.name for agent in student.agents))
        if unknown := [name for name in self.agents or () if name not in known]:
            raise ValueError(f"There is no agent {unknown[0]!r} to train. There are {', '.join(known)}.")
        names = [name for name in known if self.agents is None or name in self.agents]
        for name in names:
            _check_trainable(_agents_of(student, name)[0])
        adapter = dspy.settings.adapter or dspy.ChatAdapter()
        data_format = infer_data_format(adapter)
        data: dict[str, list[Any]] = {name: [] for name in names}
        failures: dict[str, str] = {}
        asked = specialized(student)  # each with a prompt of its own, so that it is known who said what
        predictors: dict[str, Any] = dict(asked.named_predictors())

        def ask(number: int) -> tuple[int, list[tuple[str, Step]], Sequence[Any]]:
            return number, *self._ask(asked, trainset[number], scored)

        answers = sorted(run_side_by_side(ask, range(len(trainset)), self.num_threads), key=lambda one: one[0])
        for _, good, failed in answers:
            failures |= {one.agent: f"{one.error}: {one.message.partition(chr(10))[0]}" for one in failed}
            for agent, (name, inputs, outputs) in good:
                if agent in data:
                    signature, demos = predictors[name].signature, predictors[name].demos
                    for field in signature.output_fields:
                        if field not in outputs:  # fusion does not ask for what is settled
                            signature = signature.delete(field)
                    said = {"signature": signature, "demos": demos, "inputs": inputs, "outputs": outputs}
                    data[agent].append(adapter.format_finetune_data(**said))
        if empty := [name for name, examples in data.items() if not examples]:
            counts = ", ".join(f"{name} {len(examples)}" for name, examples in data.items())
            causes = "".join(f" {name} failed: {failures[name]}." for name in empty if name in failures)
            raise ValueError(
                f"There is nothing to train {', '.join(empty)} on: of {len(trainset)} examples, so many answers are "
                f"good enough: {counts}.{causes} No job was started. Give more examples, or agents=[...] without them."
            )
        return self._train(student, data, data_format)

    def _ask(
        self, moa: MoA, example: dspy.Example, scored: Scored | None
    ) -> tuple[list[tuple[str, Step]], Sequence[Any]]:
        """What each agent said that is worth learning, and why others did not answer."""
        name_of = {id(predictor): name for name, predictor in moa.named_predictors()}
        with dspy.context(trace=[]):
            try:
                prediction: Any = moa(**{name: example[name] for name in example.inputs()})
            except MoAError as error:
                return [], error.failures
            except (LMError, AdapterParseError):
                return [], []
            steps: list[Any] = [(name_of.get(id(part)), *step) for part, *step in dspy.settings.trace]
        return list(self._good(example, prediction, steps, scored)), prediction.metadata.failures

    def _good(
        self, example: dspy.Example, prediction: Any, steps: Sequence[Any], scored: Scored | None
    ) -> Iterator[tuple[str, Step]]:
        """The agents' steps that led to something right."""

        def passes(answer: dspy.Prediction) -> bool:
            return scored is None or float(scored(example, answer)) >= self.threshold

        by_place: dict[tuple[str, str], list[Step]] = defaultdict(list)
        for step in steps:
            if step[0] is not None:  # `proposers.ada.program.predict` is of ada
                panel, agent, *_ = step[0].split(".")
                by_place[panel, panel if panel == "aggregator" else agent].append(step)
        metadata = prediction.metadata
        for (panel, agent), own in by_place.items():
            if panel == "aggregator":
                right = [not metadata.fallback_used and passes(prediction)] * len(own)
            else:
                layer = 1 if panel == "proposers" else int(panel.removeprefix("layer_"))
                proposals = [one for one in metadata.all_proposals if (one.agent, one.layer) == (agent, layer)]
                right = [passes(prediction_of(proposal.outputs)) for proposal in proposals]
                if len(right) != len(own):  # it is not known which step led to what
                    right = [bool(right) and all(right)] * len(own)
            yield from ((agent, step) for is_right, step in zip(right, own, strict=True) if is_right)

    def _train(self, student: MoA, data: Mapping[str, list[Any]], data_format: Any) -> MoA:
        moa, jobs, failed = student.deepcopy(), dict[str, Any](), list[str]()
        for name, examples in data.items():
            lm: Any = _agents_of(moa, name)[0].lm
            lm.kill()  # frees what a local model that is served holds
            jobs[name] = lm.finetune(examples, data_format, self.train_kwargs or None)
        self.trainings = []
        for name, job in jobs.items():
            tuned = job.result()
            if isinstance(tuned, Exception):
                failed.append(f"{name}: {tuned}")
            else:
                for agent in _agents_of(moa, name):
                    agent.lm = tuned
            self.trainings.append(Training(name, job.model, len(data[name]), getattr(tuned, "model", None)))
        if failed:
            what = f"Training failed for {'; '.join(failed)}."
            raise CompileInterrupted(what, "The others are in error.program.", program=moa)
        return moa


def _agents_of(moa: MoA, name: str) -> list[Agent]:
    """An agent in all its layers."""
    return [agent for agent in moa.agents if agent.name == name]


def _check_trainable(agent: Agent) -> None:
    lm: Any = agent.lm
    if lm is None:
        raise ValueError(
            f"Agent {agent.name!r} has no LM of its own to train: its program brings its LMs, or DSPy's ambient one "
            "answers. Leave it out with agents=[...]."
        )
    provider = getattr(lm, "provider", None)
    if not getattr(provider, "finetunable", False):
        raise ValueError(
            f"The model {lm.model!r} of agent {agent.name!r} cannot be trained: its provider "
            f"({type(provider).__name__}) does not fine-tune. Give dspy.LM(..., provider=...) one that does, or leave "
            "the agent out: agents=[...]."
        )
