"""Evaluation: each model alone, the vote, the strategies and the oracle, on the same questions and proposals."""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import dspy

from moa_dspy.agent import Agent
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.errors import TooFewProposals
from moa_dspy.evaluation.comparison import PERTURBED_FROM, Comparison
from moa_dspy.evaluation.metrics import METRICS, Metric, MetricError, as_metric, metric_name, prediction_of, score
from moa_dspy.evaluation.scores import ORACLE, VOTE, Kind, ScoredRow, System, score_row
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.panel import Panel
from moa_dspy.recording import (
    Estimate,
    Recording,
    RecordingInterrupted,
    RecordingStopped,
    Row,
    Summary,
    as_questions,
    estimate,
    is_recording,
    name_strategies,
    record,
)
from moa_dspy.recording.asking import aggregator_for, decide, unused_name, with_aggregator
from moa_dspy.recording.replay import replay, separate_verdict
from moa_dspy.recording.rows import failures_of
from moa_dspy.results import MoAMetadata
from moa_dspy.strategies import STRATEGIES, Strategy, as_strategy
from moa_dspy.values import IncompleteProposal, typed_outputs, validated

__all__ = [
    "EvaluationInterrupted",
    "Perturb",
    "aggregator_as_proposer",
    "default_strategies",
    "estimate_evaluation",
    "evaluate",
    "perturb_text",
]

logger = logging.getLogger(__name__)

Perturb: TypeAlias = Callable[[dspy.Example], Iterable[dspy.Example]]


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C during an evaluation.

    Attributes:
        comparison: Of the questions that were finished by then.
    """

    def __init__(self, comparison: Comparison) -> None:
        super().__init__("interrupted")
        self.comparison = comparison


def evaluate(
    moa: MoA,
    dataset: Sequence[dspy.Example | Mapping[str, Any]] | Recording | str | Path,
    metric: str | Metric | None = None,
    *,
    metrics: Mapping[str, str | Metric] | None = None,
    perturb: bool | Perturb = False,
    strategies: Sequence[str | Strategy] | None = None,
    others: Mapping[str, dspy.Module] | None = None,
    aggregator_alone: bool = True,
    concurrency: int = 8,
    seed: int = 0,
    path: str | Path | None = None,
    max_cost_usd: float | None = None,
    max_calls: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Compare a mixture's models alone, the vote, its strategies and the oracle on a dataset.

    Every model is asked once per question, and its proposals serve the vote, the oracle and all strategies: one panel
    is paid, and the comparison is paired. What a system is said to take is nevertheless what it takes on its own (a
    vote that stops early would take less: here all proposals are in). A failure counts as a wrong answer.

    Args:
        moa: The mixture. Its own strategy is taken as it is, compiled prompts included.
        dataset: Examples with the task's inputs and the gold outputs that the metric needs; or a file of them. Or a
            recording, or its file: it is scored anew, and nobody is asked; what it does not hold is left out.
        metric: See `as_metric`; what it asks of a model itself is not counted. By default the first of `metrics`, else
            `"exact"`.
        metrics: Name -> further metrics for the same answers; see `Comparison.measures`.
        perturb: Also ask each question in other words, for the measure of robustness: True takes `perturb_text`, which
            asks three times more; a function gives an example's perturbed ones. A recording holds them already.
        strategies: What to compare, by name or as objects; None means all that are built in.
        others: Name -> further modules, really called on every question (a tuned mixture, another panel).
        aggregator_alone: Whether the aggregator's model is asked too, where it is none of the proposers.
        concurrency: How many questions are under way at a time; each asks its proposers side by side.
        seed: Of the bootstrap.
        path: A file to keep the answers in, and to resume from; as `max_cost_usd` and `max_calls` in `record`.
        max_cost_usd: What it may cost.
        max_calls: How many LM calls it may make.
        on_progress: Called with the number of answered questions and of all.

    Returns:
        The comparison; its recording holds every answer.

    Raises:
        ValueError: If the dataset is empty or malformed, a name is unknown, or an API key is missing.
        TypeError: If the first argument is no mixture.
        MetricError: If the metric gives no score; on the first question's gold outputs, before anything is paid
            for, where the example has them. `recording` on the error holds what was answered.
        TooFewProposals: If nobody answers the first question.
        EvaluationInterrupted: On Ctrl-C, with what was finished.
        RecordingStopped: At the end of the budget, or when the file could not be written; `comparison` on the error
            is of what was finished.

    Examples:
        >>> from moa_dspy import MoA
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> example = dspy.Example(question="What is 17*23?", answer="391").with_inputs("question")
        >>> comparison = evaluate(moa, [example], strategies=["synthesis"])
        >>> [(row.name, row.score) for row in comparison.rows][-3:]
        [('plain vote', 1.0), ('synthesis', 1.0), ('oracle', 1.0)]
        >>> evaluate(moa, comparison.recording, "contains").usage.calls == comparison.usage.calls  # no call
        True
    """
    if not isinstance(moa, MoA):
        raise TypeError(
            f"evaluate() compares a mixture with its models, and this is {type(moa).__name__}. Write "
            "evaluate(MoA(signature, [program, ...]), ...), or give it as others={'mine': program} beside one; to "
            "score one program alone, use dspy.Evaluate."
        )
    require_positive(concurrency=concurrency)
    named = {metric_name(metric): metric} if metric is not None else {} if metrics else {"exact": "exact"}
    scoring = _Scoring(moa, {**named, **(metrics or {})}, concurrency, seed)
    alone = aggregator_as_proposer(moa) if aggregator_alone else None
    judge = "" if alone is None else unused_name(alone.name, [*moa.panels[0].names, *(others or {})])
    if isinstance(dataset, (str, Path)) and is_recording(dataset):
        dataset = Recording.load(dataset)
    if isinstance(dataset, Recording):
        if path is not None:
            raise ValueError(f"The dataset is a recording already: there is nothing to keep in {path}. Leave it out.")
        recording, recorded = _find_recorded(moa, dataset, strategies, others, judge)
        scoring.list_systems(recorded)
        if perturb and not any(PERTURBED_FROM in row.extra for row in recording):
            logger.warning("perturb: the recording holds no question in other words, and nobody is asked.")
        return scoring.compare(recording)
    chosen = default_strategies(moa) if strategies is None else list(strategies)
    modules = {**({} if alone is None else {judge: alone}), **(others or {})}
    kinds: dict[str, Kind] = {name: "aggregator" if name == judge else "other" for name in modules}
    scoring.list_systems({**dict.fromkeys(name_strategies(chosen), "strategy"), **kinds})
    examples = scoring.read(dataset, perturb_text if perturb is True else perturb or None)

    def on_row(row: Row | None, summary: Summary) -> None:
        if row is not None and summary.answered + summary.failed == 1:
            scoring.look_at_first(row)
        if on_progress is not None:
            on_progress(summary.questions - summary.left, summary.questions)

    settings: dict[str, Any] = {"max_cost_usd": max_cost_usd, "max_calls": max_calls, "on_row": on_row}
    try:
        return scoring.compare(
            record(moa, examples, path, strategies=chosen, others=modules, concurrency=concurrency, **settings)
        )
    except RecordingInterrupted as stop:
        raise EvaluationInterrupted(scoring.compare(stop.recording)) from stop
    except RecordingStopped as stop:
        stop.comparison = scoring.compare(stop.recording)
        raise


def estimate_evaluation(
    moa: MoA,
    dataset: Any,
    strategies: Sequence[str | Strategy] | None = None,
    path: str | Path | None = None,
    perturb: bool | Perturb = False,
) -> Estimate:
    """What `evaluate` would take with these arguments, without asking anybody."""
    if isinstance(dataset, Recording):
        return Estimate(0, 0, 0.0)
    if perturb:
        dataset = _Scoring(moa, {}, 1, 0).read(dataset, perturb_text if perturb is True else perturb)
    alone = aggregator_as_proposer(moa)
    others = {} if alone is None else {unused_name(alone.name, moa.panels[0].names): alone}
    return estimate(moa, dataset, path, strategies=strategies or default_strategies(moa), others=others)


def perturb_text(example: dspy.Example) -> list[dspy.Example]:
    """The example with typos, in lower case, and with odd white space, in all inputs that are text.

    Three of the changes by which Liang et al., "Holistic Evaluation of Language Models" (2023), measure robustness.
    The same text is always changed in the same way; what a change leaves as it is, is left out.

    Examples:
        >>> example = dspy.Example(question="Name the capital of Peru.", answer="Lima").with_inputs("question")
        >>> [changed.question for changed in perturb_text(example)]
        ['Name the capiatl of Peru.', 'name the capital of peru.', '  Name  the  capital of Peru.']
    """

    def mistype(text: str) -> str:  # a tenth of the longer words, and one of them at least
        draw, letters = random.Random(text), list(text)
        words = list(re.finditer(r"[^\W\d_]{4,}", text))
        for word in draw.sample(words, min(len(words), 1 + len(words) // 10)):
            place = draw.randrange(word.start() + 1, word.end() - 1)
            letters[place], letters[place + 1] = letters[place + 1], letters[place]
        return "".join(letters)

    def space(text: str) -> str:
        draw = random.Random(text)
        return re.sub(" ", lambda _: " " * draw.randint(1, 2), f" {text}")

    texts = {name: text for name, text in example.inputs().items() if isinstance(text, str)}
    changed = [{name: change(text) for name, text in texts.items()} for change in (mistype, str.lower, space)]
    return [example.copy(**new) for new in changed if new != texts]


class _Scoring:
    """Scores recorded rows side by side, and keeps what was scored whatever ends it."""

    def __init__(self, moa: MoA, metrics: Mapping[str, str | Metric], concurrency: int, seed: int) -> None:
        self.moa, self.concurrency, self.seed = moa, concurrency, seed
        self.metrics = {name: as_metric(metric, moa.signature) for name, metric in metrics.items()}
        self.need_gold = {n for n, one in metrics.items() if isinstance(one, str) and one.partition(":")[0] in METRICS}
        self.systems: list[System] = []
        self.examples: dict[str, dspy.Example] = {}
        self.first: ScoredRow | None = None  # of the first row: a metric may ask a model, so it is asked once

    def list_systems(self, kinds: Mapping[str, Kind]) -> None:
        """Enter who is compared: all that the panel gives, and the verdicts of these names."""
        alone = [System(name, "proposer") for name in self.moa.panels[0].names]
        alone += [System(name, kind) for name, kind in kinds.items() if kind == "aggregator"]
        verdicts = [System(name, kind) for name, kind in kinds.items() if kind != "aggregator"]
        self.systems = [*alone, System(VOTE, "vote"), *verdicts, System(ORACLE, "oracle")]
        names = Counter(system.name for system in self.systems)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(
                f"{twice[0]!r} names two systems: their scores could not be told apart. Name the proposer or the "
                "module otherwise."
            )

    def read(self, dataset: Any, perturb: Perturb | None) -> list[Any]:
        """Check the dataset, and try the metrics on its first gold outputs; gives what is to be asked."""
        given = dataset if isinstance(dataset, (str, Path)) else list(dataset)
        questions = as_questions(given, self.moa.signature)
        if not questions:
            raise ValueError("The dataset is empty: there is no question to compare the systems on.")
        for question, row in zip(questions, questions if isinstance(given, (str, Path)) else given, strict=True):
            # The caller's own example as it is, of whatever class and types.
            self.examples[question.key] = row if isinstance(row, dspy.Example) else self._typed(question.example)
        self._try_on_gold(self.examples[questions[0].key])
        return [*questions, *(self._reword(questions, perturb) if perturb is not None else ())]

    def _reword(self, questions: Sequence[Row], perturb: Perturb) -> Iterator[dict[str, Any]]:
        """The questions in other words, each with the id of the original."""
        for question in questions:
            example = self.examples[question.key].with_inputs(*self.moa.signature.input_fields)
            for number, changed in enumerate(perturb(example), start=1):
                if not isinstance(changed, dspy.Example):
                    raise TypeError(f"perturb gave {changed!r:.60}, no Example. Write example.copy(field=...).")
                own = {} if "id" in self.moa.signature.fields else {"id": f"{question.id}~{number}"}
                yield {**dict(changed.items()), PERTURBED_FROM: question.key, **own}

    def look_at_first(self, row: Row) -> None:
        """Stop before the rest is paid for if nobody answers the first question, or the metric cannot score it."""
        alone = [row.verdicts[one.name] for one in self.systems if one.kind == "aggregator"]
        if not any(proposal.layer == 1 for proposal in row.proposals):
            raise _too_few("No proposer answered", self.moa, row)
        if any(verdict.outputs is None for verdict in alone):
            raise _too_few("The aggregator's model did not answer", self.moa, row)
        found = self._compare(Recording([row]), next(iter(self.metrics)))
        [self.first] = [*found.questions, *found.perturbed]

    def compare(self, recording: Recording) -> Comparison:
        """Score all rows by each metric."""
        first, *others = self.metrics
        comparison = self._compare(recording, first)
        return replace(comparison, further={name: self._compare(recording, name) for name in others})

    def _compare(self, recording: Recording, metric: str) -> Comparison:
        scored: dict[int, ScoredRow] = {}

        def score_one(place: int) -> tuple[int, ScoredRow]:
            row = recording[place]
            if self.first is not None and metric == next(iter(self.metrics)) and row is self.first.row:
                return place, self.first
            example = self.examples.get(row.key) or self._typed(row.example)
            return place, score_row(self.moa, row, example, self.systems, self.metrics[metric])

        try:
            for place, row in run_side_by_side(score_one, range(len(recording)), self.concurrency):
                scored[place] = row
        except KeyboardInterrupt as stop:
            raise EvaluationInterrupted(self._comparison(scored, recording, metric)) from stop
        except MetricError as error:
            error.comparison, error.recording = self._comparison(scored, recording, metric), recording
            raise
        return self._comparison(scored, recording, metric)

    def _comparison(self, scored: Mapping[int, ScoredRow], recording: Recording, metric: str) -> Comparison:
        rows = [scored[place] for place in sorted(scored)]
        asked = [row for row in rows if PERTURBED_FROM not in row.row.extra]
        reworded = [row for row in rows if PERTURBED_FROM in row.row.extra]
        planned = max(sum(PERTURBED_FROM not in row.extra for row in recording), len(self.examples))
        systems = []
        for system in self.systems:
            models = (call.model for row in rows for call in row.answers[system.name].calls or ())
            systems.append(replace(system, models=tuple(dict.fromkeys(models))))
        return Comparison(systems, asked, planned, metric, self.seed, perturbed=reworded)

    def _typed(self, example: dspy.Example) -> dspy.Example:
        """A question that a file held, with inputs and gold outputs of the task's types."""
        for name, info in self.moa.signature.fields.items():
            if example.get(name) is not None:
                try:
                    example[name] = validated(example[name], info.annotation)
                except ValueError:  # a gold value that only the metric knows how to read
                    continue
        return example

    def _try_on_gold(self, example: dspy.Example) -> None:
        tried = set(self.metrics)
        try:
            gold = typed_outputs(example, self.moa.signature)
        except IncompleteProposal:
            tried = self.need_gold  # others may know how to compare golds of other types, or need none
            gold = {name: example[name] for name in self.moa.signature.output_fields if name in example}
        for name in tried:
            score(self.metrics[name], example, prediction_of(gold))


def _find_recorded(
    moa: MoA,
    recording: Recording,
    strategies: Sequence[str | Strategy] | None,
    others: Collection[str] | None,
    judge: str,
) -> tuple[Recording, dict[str, Kind]]:
    """The verdicts to be scored, of what is recorded and of strategies that count in code; None wants all."""
    if not recording:
        raise ValueError("The dataset is empty: there is no question to compare the systems on.")
    asked = {id for row in recording for id in row.asked}
    if missing := [name for name in moa.panels[0].names if name not in asked]:
        raise ValueError(
            f"The recording holds no answer of {', '.join(missing)} (it has {', '.join(recording.agents) or 'none'}), "
            "so this mixture cannot be scored on it. Give a recording of its proposers, or a mixture of the recorded "
            "ones: Agent(model, name=...)."
        )
    rows = [separate_verdict(row) for row in recording]
    deciders = {name: verdict.by for row in rows for name, verdict in row.verdicts.items()}
    wanted = name_strategies(dict.fromkeys([*STRATEGIES, moa.strategy.name]) if strategies is None else strategies)
    for name, strategy in wanted.items():
        bound = moa.strategy if strategy == moa.strategy.name else as_strategy(strategy)
        if name not in deciders and not bound.needs_aggregator:
            mixture = with_aggregator(moa, aggregator_for(moa, strategy))
            rows, deciders[name] = [_count(mixture, row, name) for row in rows], "counted"
    kinds: dict[str, Kind] = {}
    for name in [*(name for name in wanted if name in deciders), *deciders]:
        if name in wanted or (deciders[name] and strategies is None):
            kinds[name] = "strategy"
        elif not deciders[name] and (others is None or name in [*others, judge]):
            kinds[name] = "aggregator" if name == judge else "other"
    left_out = [name for name in [*(wanted if strategies else ()), *(others or ())] if name not in deciders]
    if left_out:
        logger.warning("%s: not in the recording, and left out, as nobody is asked.", ", ".join(left_out))
    return Recording(rows), kinds


def _count(mixture: MoA, row: Row, name: str) -> Row:
    if not row.proposals:
        return row
    with dspy.context(lm=None):  # nobody is asked
        verdict = decide(replay(mixture, [row]), row.inputs, by="counted")
    return row.model_copy(update={"verdicts": {**row.verdicts, name: verdict}})


def default_strategies(moa: MoA) -> list[str]:
    """The built-in strategies that can answer, and the mixture's own."""
    can_ask = moa.aggregator.lm is not None or dspy.settings.lm is not None
    built_in = [name for name, strategy in STRATEGIES.items() if can_ask or not strategy.needs_aggregator]
    return list(dict.fromkeys([*built_in, moa.strategy.name]))


def aggregator_as_proposer(moa: MoA) -> Agent | None:
    """The aggregator's model as a proposer; None if it is one anyway."""
    lm, panel = moa.aggregator.lm or dspy.settings.lm, moa.panels[0]
    if lm is None or lm.model in [agent.model for agent in panel.agents]:
        return None
    # The prompt that the proposers share, also a compiled one: what is compared is mixing, not prompting.
    agent, shared = Agent(lm), getattr(panel, "shared", None)
    return Panel(moa.signature, [agent if shared is None else agent.with_program(shared)]).agents[0]


def _too_few(complaint: str, moa: MoA, row: Row) -> TooFewProposals:
    failures = list(failures_of(row))
    account = MoAMetadata(
        strategy=moa.strategy.name,
        answered_by=moa.strategy.name,
        num_proposers=len(moa.panels[0].names),
        proposals_asked=len(row.asked),
        proposals_received=len(row.proposals),
        all_proposals=row.proposals,
        failures=failures,
        calls=[*row.calls, *(call for verdict in row.verdicts.values() for call in verdict.calls)],
    )
    causes = "; ".join(f"{failed.agent}: {failed.error}: {failed.message}" for failed in failures)
    causes = causes or (row.error.message if row.error is not None else "")
    return TooFewProposals(f"{complaint} the first question, so the others were not asked. {causes}", account)
