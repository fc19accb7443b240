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
from moa_dspy.results import Failure, Proposal

from .examples import CompileInterrupted, check_mixture, checked_examples
from .mixtures import specialized
from .recipes import Budget, calls_per_answer
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

    The mixture, or a teacher of the same shape, answers the trainset; of what each agent said, that is kept which
    scores by the metric: for a proposer its own proposal, for the aggregator the mixture's answer. So no model
    learns another's words, nor its own mistakes behind a right answer of the panel.

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
        self.metric = metric
        self.agents = agents
        self.train_kwargs = dict(train_kwargs or {})
        self.threshold = threshold
        self.num_threads = num_threads
        self.trainings: list[Training] = []

    def budget(self, student: MoA, trainset: int, valset: int = 0) -> Budget:
        """What a compile on so many examples will take at most, the training itself not counted."""
        each = calls_per_answer(student)
        return Budget(trainset * each, 0, f"{trainset} examples x {each} calls")

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self, student: MoA, *, trainset: Sequence[dspy.Example], teacher: MoA | None = None
    ) -> MoA:
        """Train, and give a copy of the student with the trained LMs.

        Args:
            student: The mixture; it stays as it is.
            trainset: Examples to learn from.
            teacher: A mixture of the same shape, whose answers are learned; by default the student itself.

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
        names = self._names(student)
        for name in names:
            _check_trainable(name, _agents_of(student, name)[0])
        adapter = dspy.settings.adapter or dspy.ChatAdapter()
        data_format = infer_data_format(adapter)
        mine, theirs = specialized(student), specialized(teacher or student)
        _refuse_other_shape(mine, theirs)
        steps, failures = self._ask(theirs, trainset, scored)
        data = {name: [_training_example(adapter, mine, step) for step in steps[name]] for name in names}
        _refuse_nothing(data, len(trainset), failures)
        return self._train(student, data, data_format)

    def _ask(
        self, moa: MoA, trainset: Sequence[dspy.Example], scored: Scored | None
    ) -> tuple[Mapping[str, list[Step]], list[Failure]]:
        """What each agent said that is worth learning, and why others did not answer."""
        name_of = {id(predictor): name for name, predictor in moa.named_predictors()}

        def ask(number: int) -> tuple[int, list[tuple[str, Step]], list[Failure]]:
            example = trainset[number]
            with dspy.context(trace=[]):
                try:
                    prediction: Any = moa(**{name: example[name] for name in example.inputs()})
                except MoAError as error:
                    return number, [], error.failures
                except (LMError, AdapterParseError):
                    return number, [], []
                trace = [(name_of.get(id(part)), inputs, outputs) for part, inputs, outputs in dspy.settings.trace]
            steps: Any = [step for step in trace if step[0] is not None]
            return number, list(self._good(example, prediction, steps, scored)), prediction.metadata.failures

        found, failures = defaultdict[str, list[Step]](list), list[Failure]()
        # In the order of the trainset, whatever order they were answered in.
        answers = sorted(run_side_by_side(ask, range(len(trainset)), self.num_threads), key=lambda one: one[0])
        for _, good, failed in answers:
            failures += failed
            for agent, step in good:
                found[agent].append(step)
        return found, failures

    def _good(
        self, example: dspy.Example, prediction: Any, steps: Sequence[Step], scored: Scored | None
    ) -> Iterator[tuple[str, Step]]:
        """The agents' steps that led to something right."""

        def passes(answer: dspy.Prediction) -> bool:
            return scored is None or float(scored(example, answer)) >= self.threshold

        by_place: dict[str, list[Step]] = defaultdict(list)
        for step in steps:  # `proposers.ada.program.predict` is of `proposers.ada`
            place = ".".join(step[0].split(".")[:2])
            by_place["aggregator" if place.startswith("aggregator") else place].append(step)
        metadata = prediction.metadata
        for place, own in by_place.items():
            panel, _, agent = place.partition(".")
            if panel == "aggregator":
                right = [not metadata.fallback_used and passes(prediction)] * len(own)
            else:
                layer = 1 if panel == "proposers" else int(panel.removeprefix("layer_"))
                proposals: list[Proposal] = [p for p in metadata.all_proposals if (p.agent, p.layer) == (agent, layer)]
                right = [passes(prediction_of(proposal.outputs)) for proposal in proposals]
                if len(right) != len(own):  # it is not known which step led to what
                    right = [bool(right) and all(right)] * len(own)
            yield from ((agent or panel, step) for is_right, step in zip(right, own, strict=True) if is_right)

    def _train(self, student: MoA, data: Mapping[str, list[Any]], data_format: Any) -> MoA:
        moa = student.deepcopy()
        jobs: dict[str, Any] = {}
        for name, examples in data.items():
            lm: Any = _agents_of(moa, name)[0].lm
            lm.kill()  # frees what a local model that is served holds
            jobs[name] = lm.finetune(examples, data_format, self.train_kwargs or None)
        self.trainings, errors = [], {}
        for name, job in jobs.items():
            tuned = job.result()
            if isinstance(tuned, Exception):
                errors[name] = tuned
            else:
                for agent in _agents_of(moa, name):
                    agent.lm = tuned
            self.trainings.append(Training(name, job.model, len(data[name]), getattr(tuned, "model", None)))
        if errors:
            what = "; ".join(f"{name}: {error}" for name, error in errors.items())
            raise CompileInterrupted(f"Training failed for {what}.", "The others are in error.program.", program=moa)
        return moa

    def _names(self, moa: MoA) -> list[str]:
        known = list(dict.fromkeys(agent.name for agent in moa.agents))
        if unknown := [name for name in self.agents or () if name not in known]:
            raise ValueError(f"There is no agent {unknown[0]!r} to train. There are {', '.join(known)}.")
        return [name for name in known if self.agents is None or name in self.agents]


def _agents_of(moa: MoA, name: str) -> list[Agent]:
    """An agent in all its layers."""
    return [agent for agent in moa.agents if agent.name == name]


def _training_example(adapter: Any, student: MoA, step: Step) -> Any:
    name, inputs, outputs = step
    predictor: Any = dict(student.named_predictors())[name]
    signature = predictor.signature
    for field in signature.output_fields:
        if field not in outputs:  # fusion does not ask for what is settled
            signature = signature.delete(field)
    return adapter.format_finetune_data(signature=signature, demos=predictor.demos, inputs=inputs, outputs=outputs)


def _check_trainable(name: str, agent: Agent) -> None:
    lm: Any = agent.lm
    if lm is None:
        raise ValueError(
            f"Agent {name!r} has no LM of its own to train: its program brings its LMs, or DSPy's ambient one answers. "
            "Leave it out with agents=[...]."
        )
    provider = getattr(lm, "provider", None)
    if not getattr(provider, "finetunable", False):
        raise ValueError(
            f"The model {lm.model!r} of agent {name!r} cannot be trained: its provider ({type(provider).__name__}) "
            "does not fine-tune. Give dspy.LM(..., provider=...) one that does, or leave the agent out: agents=[...]."
        )


def _refuse_other_shape(student: MoA, teacher: MoA) -> None:
    names = [name for name, _ in student.named_predictors()]
    if [name for name, _ in teacher.named_predictors()] != names:
        raise ValueError(
            "The teacher is of another shape than the student, so it is not known whose words are for whom: both need "
            f"the prompts {', '.join(names)}."
        )


def _refuse_nothing(data: Mapping[str, Sequence[Any]], asked: int, failures: Sequence[Failure]) -> None:
    if empty := [name for name, examples in data.items() if not examples]:
        counts = ", ".join(f"{name} {len(examples)}" for name, examples in data.items())
        last = {failure.agent: failure for failure in failures if failure.agent in empty}
        causes = "".join(
            f" {name} failed: {failure.error}: {failure.message.partition(chr(10))[0]}."
            for name, failure in last.items()
        )
        raise ValueError(
            f"There is nothing to train {', '.join(empty)} on: of {asked} examples, so many answers are good "
            f"enough: {counts}.{causes} No job was started. Give more examples, a teacher, or agents=[...] without "
            "them."
        )
