"""Weights of models: each agent's LM trained on what that agent itself said, and DSPy's own optimizers that train."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import dspy
from dspy.clients.utils_finetune import infer_data_format
from dspy.teleprompt import Teleprompter
from dspy.utils.exceptions import AdapterParseError, LMError

from moa_dspy.agent import Agent, adopt_lms, showing_lms
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.errors import MoAError
from moa_dspy.evaluation import Metric, prediction_of
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA

from .examples import CompileInterrupted, check_mixture, checked_examples
from .mixtures import specialized
from .scoring import Scored

__all__ = ["Finetune", "Training", "tune_weights"]

ModuleT = TypeVar("ModuleT", bound=dspy.Module)


@dataclass(frozen=True)
class Training:
    """One LM that was trained."""

    agent: str  # whose it is
    model: str  # what was trained
    examples: int  # how many prompts with their replies it was trained on
    tuned_model: str | None = None  # what came of it; None if the job failed


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

        Raises:
            TypeError: If the student is no mixture.
            ValueError: If an agent cannot be trained, or has nothing to learn from.
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
            _check_trainable(_find_agents(student, name)[0])
        adapter = dspy.settings.adapter or dspy.ChatAdapter()
        data_format = infer_data_format(adapter)
        asked = specialized(student)  # each with a prompt of its own, so that it is known who said what

        def ask(number: int) -> tuple[int, list[tuple[str, dict[str, Any]]], Mapping[str, str]]:
            return number, *self._ask(asked, trainset[number], scored)

        data, failures = {name: list[Any]() for name in names}, dict[str, str]()
        answers = run_side_by_side(ask, range(len(trainset)), self.num_threads)
        for _, good, failed in sorted(answers, key=lambda one: one[0]):
            failures |= failed
            for agent, said in good:
                if agent in data:
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
    ) -> tuple[list[tuple[str, dict[str, Any]]], Mapping[str, str]]:
        """What each agent said that is worth learning, and why others did not answer."""

        def tell(failures: Sequence[Any]) -> dict[str, str]:
            return {one.agent: f"{one.error}: {one.message.partition(chr(10))[0]}" for one in failures}

        def passes(answer: dspy.Prediction) -> bool:
            return scored is None or float(scored(example, answer)) >= self.threshold

        with dspy.context(trace=[]):
            try:
                prediction: Any = moa(**{name: example[name] for name in example.inputs()})
            except MoAError as error:
                return [], tell(error.failures)
            except (LMError, AdapterParseError):
                return [], {}
            trace = list(dspy.settings.trace)
        return list(_keep_good(moa, prediction, trace, passes)), tell(prediction.metadata.failures)

    def _train(self, student: MoA, data: Mapping[str, list[Any]], data_format: Any) -> MoA:
        moa, jobs, failed = student.deepcopy(), dict[str, Any](), list[str]()
        for name, examples in data.items():
            lm: Any = _find_agents(moa, name)[0].lm
            lm.kill()  # frees what a local model that is served holds
            jobs[name] = lm.finetune(examples, data_format, self.train_kwargs or None)
        self.trainings = []
        for name, job in jobs.items():
            tuned = job.result()
            if isinstance(tuned, Exception):
                failed.append(f"{name}: {tuned}")
            else:
                for agent in _find_agents(moa, name):
                    agent.lm = tuned
            self.trainings.append(Training(name, job.model, len(data[name]), getattr(tuned, "model", None)))
        if failed:
            what = f"Training failed for {'; '.join(failed)}."
            raise CompileInterrupted(what, "The others are in error.program.", program=moa)
        return moa


def _keep_good(moa: MoA, prediction: Any, trace: Sequence[Any], passes: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """What agents were asked and said that led to something right, each with the agent's name."""
    place_of = {id(predictor): tuple(name.split(".")[:2]) for name, predictor in moa.named_predictors()}
    steps: dict[tuple[str, ...], list[Any]] = defaultdict(list)
    for step in trace:
        if (place := place_of.get(id(step[0]))) is not None:  # ("proposers", "ada"), ("aggregator", "program")
            steps[place].append(step)
    metadata = prediction.metadata
    for (panel, agent), own in steps.items():
        if panel == "aggregator":
            agent, right = panel, [not metadata.fallback_used and passes(prediction)] * len(own)
        else:
            who = agent, getattr(moa, panel).layer
            proposals = [one for one in metadata.all_proposals if (one.agent, one.layer) == who]
            right = [passes(prediction_of(proposal.outputs)) for proposal in proposals]
            if len(right) != len(own):  # it is not known which step led to what
                right = [bool(right) and all(right)] * len(own)
        for is_right, (predictor, inputs, outputs) in zip(right, own, strict=True):
            if is_right:
                signature = predictor.signature
                for field in [field for field in signature.output_fields if field not in outputs]:
                    signature = signature.delete(field)  # fusion does not ask for what is settled
                yield agent, {"signature": signature, "demos": predictor.demos, "inputs": inputs, "outputs": outputs}


def _find_agents(moa: MoA, name: str) -> list[Agent]:
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


def tune_weights(program: ModuleT, optimizer: Teleprompter, **arguments: Any) -> ModuleT:
    """Compile a mixture, or a program that holds one, with an optimizer that trains models.

    `BootstrapFinetune` and `BetterTogether` want an LM on every predictor. This shows them, on a copy,
    each agent's own, and gives each agent the LM that comes back. (`set_lm` would put one LM on all.)

    Args:
        program: What to compile; it stays as it is.
        optimizer: `BootstrapFinetune`, or `BetterTogether`, also one of prompt optimizers alone.
        **arguments: For its `compile`: `trainset`, `teacher`, ...

    Raises:
        ValueError: If agents on several LMs share a prompt, a predictor has no LM, or the optimizer trains one model
            per predictor (`multitask=False`).

    Examples:
        ```python
        moa = MoA("question -> answer", ["openai/gpt-4.1-nano", "openai/gpt-4.1-mini"], "openai/gpt-4.1",
                  use_specialized_prompts=True)
        tuned = tune_weights(moa, dspy.BootstrapFinetune(metric=metric), trainset=train)
        ```
    """
    if _trains_per_predictor(optimizer):
        raise ValueError(
            "multitask=False takes the n-th step of a trace for the n-th predictor's, and a proposer that fails, or is "
            "asked again, moves the others': models would be trained on what others said. Use multitask=True, or "
            "moa_dspy.optimizers.Finetune, which trains each model on what it said itself."
        )
    student = program.deepcopy()
    agents = _agents_of(student)
    adopt_lms(agents)
    _refuse_shared_prompts(student, agents)
    if isinstance(optimizer, dspy.BootstrapFinetune) and not arguments.get("teacher"):
        # Asked in the student's place: as any mixture, on rollouts of its own.
        arguments["teacher"] = program.deepcopy()
    with showing_lms(agents):
        if bare := [name for name, predictor in student.named_predictors() if predictor.lm is None]:
            said = "has no LM of its own, so there is nothing to train"
            raise ValueError(f"The predictor {bare[0]} {said}. Give its agent one: the ambient LM is not trained.")
        tuned: Any = optimizer.compile(student, **arguments)
    for one in (tuned, *(candidate["program"] for candidate in getattr(tuned, "candidate_programs", ()))):
        with showing_lms(_agents_of(one)):
            pass  # copies, which showed theirs too, are done with it
    return tuned


def _agents_of(program: dspy.Module) -> list[Agent]:
    modules: Any = program.named_sub_modules(Agent)
    return [agent for _, agent in modules]


def _refuse_shared_prompts(program: dspy.Module, agents: Sequence[Agent]) -> None:
    for name, predictor in program.named_predictors():
        own = [agent for agent in agents if any(part is predictor for part in agent.predictors())]
        lms = {id(agent.lm) for agent in own if agent.lm is not None and not agent.has_agents}
        if len(lms) > 1:
            raise ValueError(
                f"The predictor {name} is the prompt of {len(lms)} LMs, and an optimizer trains one per predictor: "
                "the others would be lost. Build the mixture with use_specialized_prompts=True."
            )


def _trains_per_predictor(optimizer: Any) -> bool:
    inner = getattr(optimizer, "optimizers", {}).values()
    return getattr(optimizer, "multitask", True) is False or any(map(_trains_per_predictor, inner))
