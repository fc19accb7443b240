import copy
import gc
import json
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.teleprompt import Teleprompter
from support.fake_lm import FakeLM
from support.mixtures import calls
from support.roles import TIP, TRAIN, Outer, Task, coach, never, right, role

from moa_dspy import MoA
from moa_dspy.evaluation import MetricError
from moa_dspy.optimizers import CompileInterrupted, Recipe, Specialize

TINY = Recipe("tiny", evaluations=2, reflections=2, minibatch=2, candidates=1, trials=1, demos=1)
GONE = dspy.lm15.AuthError("the key was revoked")


def cast(**others: Any) -> dict[str, FakeLM]:
    """Two proposers, a judge, who proposes prompts, and an LM that nobody may ask."""
    lms = {name: role(name) for name in ("ada", "bo", "judge")}
    return {**lms, "coach": FakeLM("coach", coach), "stray": FakeLM("stray", []), **others}


def student(lms: dict[str, FakeLM], **options: Any) -> MoA:
    return MoA(Task, [lms["ada"], lms["bo"]], lms["judge"], **options)


def specialize(lms: dict[str, FakeLM], metric: Any = right, **settings: Any) -> Specialize:
    return Specialize(metric, **{"recipe": TINY, "reflection_lm": lms["coach"], **settings})


def compiled(lms: dict[str, FakeLM], moa: MoA, optimizer: Specialize) -> MoA:
    with dspy.context(lm=lms["stray"]):
        return optimizer.compile(moa, trainset=TRAIN, valset=TRAIN)


def prompts(moa: MoA) -> dict[str, str]:
    parts: list[tuple[str, Any]] = moa.named_predictors()
    return {name: part.signature.instructions for name, part in parts}


class Rewrite(Teleprompter):
    """An optimizer that gives every prompt this text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def compile(self, student: Any, *, trainset: Any, **_: Any) -> Any:
        for part in student.predictors():
            part.signature = part.signature.with_instructions(self.text)
        return student


def test_each_agent_is_tuned_alone_and_the_bill_is_what_the_engines_counted() -> None:
    lms = cast()
    moa, optimizer = student(lms), specialize(lms)
    before, tuned = prompts(moa), compiled(lms, moa, optimizer)
    assert prompts(moa) == before and "proposers.shared.predict" in before
    assert prompts(tuned) == {
        "proposers.ada.program.predict": TIP,
        "proposers.bo.program.predict": TIP,
        "aggregator.program.synthesize": TIP,
    }
    report = optimizer.report
    assert [(stage.name, stage.before, stage.after, stage.kept) for stage in report.stages] == [
        ("ada", 0.5, 1.0, True),
        ("bo", 0.5, 1.0, True),
        ("proposals", None, None, False),
        ("aggregator", 0.5, 1.0, True),
    ]
    assert report.table().row_count == 5 and report.judged_on == "valset"
    ada, bo, recorded, judge = report.stages
    # Six examples stand in both sets, and are recorded once.
    assert recorded.usage.calls == 2 * 6 and (ada.runs, bo.runs) == (ada.usage.calls, bo.usage.calls)
    asked = {"ada": ada.usage.calls + 6, "bo": bo.usage.calls + 6, "judge": judge.usage.calls}
    assert asked | {"coach": report.optimizer_calls, "stray": 0} == calls(lms)
    assert report.joint_calls == sum(stage.runs for stage in report.stages) * 3 > report.calls
    spent, usage = sum(calls(lms).values()), report.usage
    assert (usage.calls, usage.prompt_tokens, usage.cost_usd, usage.unpriced_calls) == (spent, 10 * spent, None, spent)
    assert json.loads(json.dumps(report.to_dict()))["calls"] == report.calls
    assert tuned(question="q3").answer == "a3"


def test_what_is_worse_on_the_valset_is_not_kept() -> None:
    def spoiled(name: str) -> FakeLM:
        good: Any = role(name)._fake.answers
        return FakeLM(name, lambda p: {"reasoning": "", "answer": "?"} if "Spoil." in p else good(p))

    lms = cast(ada=spoiled("ada"))
    optimizer = specialize(lms, optimizer=Rewrite("Spoil."))
    tuned = compiled(lms, student(lms), optimizer)
    ada, bo = optimizer.report.stages[:2]
    assert (ada.before, ada.after, ada.kept, ada.note) == (0.5, 0.0, False, "not kept: worse on the valset")
    assert (bo.before, bo.after, bo.kept) == (0.5, 0.5, True)
    assert prompts(tuned)["proposers.ada.program.predict"] == "Answer the question."


@pytest.mark.parametrize(
    ("optimizer", "after"),
    [
        (lambda lms: dspy.LabeledFewShot(k=2), [0.5, 0.5, None, 0.5]),
        (lambda lms: dspy.BootstrapFewShot(max_bootstrapped_demos=2, max_labeled_demos=0), [1.0, 1.0, None, 1.0]),
        (lambda lms: dspy.BootstrapFewShotWithRandomSearch(right, num_candidate_programs=1), [1.0, 1.0, None, 1.0]),
        (lambda lms: dspy.COPRO(prompt_model=lms["coach"], breadth=2, depth=1), [1.0, 1.0, None, 1.0]),
        (lambda lms: dspy.SIMBA(metric=right, bsize=4, num_candidates=2, max_steps=1), [1.0, 1.0, None, 1.0]),
        (lambda lms: dspy.GEPA(never, reflection_lm=lms["coach"], max_metric_calls=12), [1.0, 1.0, None, 1.0]),
    ],
    ids=["labeled", "bootstrap", "random search", "copro", "simba", "gepa"],
)
def test_any_optimizer_of_prompts_or_demos_serves(optimizer: Any, after: list[float | None]) -> None:
    lms = cast()
    inner = optimizer(lms)
    settings = copy.copy(vars(inner))
    with dspy.context(lm=lms["coach"]):  # SIMBA's prompt model
        staged = specialize(lms, optimizer=inner)
        staged.compile(student(lms), trainset=TRAIN, valset=TRAIN)
    assert [stage.after for stage in staged.report.stages] == after
    assert vars(inner) == settings


def test_demos_are_each_agents_own() -> None:
    lms = cast()
    inner = dspy.BootstrapFewShot(max_bootstrapped_demos=2, max_labeled_demos=0)
    tuned = compiled(lms, student(lms), specialize(lms, optimizer=inner))
    parts: list[tuple[str, Any]] = tuned.named_predictors()
    authors = {name: {demo["reasoning"] for demo in part.demos} for name, part in parts}
    assert authors == {
        "proposers.ada.program.predict": {"ada wrote this"},
        "proposers.bo.program.predict": {"bo wrote this"},
        "aggregator.program.synthesize": {"judge wrote this"},
    }
    assert all("Proposal P1" in demo["proposals"] for demo in parts[-1][1].demos)


def test_a_later_layer_is_tuned_on_what_the_tuned_layer_before_it_proposed() -> None:
    lms = cast()
    optimizer = specialize(lms)
    tuned = compiled(lms, student(lms, layers=2), optimizer)
    assert [stage.name for stage in optimizer.report.stages] == [
        *("ada", "bo", "proposals", "ada, layer 2", "bo, layer 2", "proposals, layer 2", "aggregator"),
    ]
    assert tuned(question="q5").answer == "a5"
    assert optimizer.report.calls + optimizer.report.optimizer_calls == sum(calls(lms).values()) - 5


def test_an_aggregator_that_is_never_asked_costs_no_tuning() -> None:
    lms = cast(bo=role("ada"))  # of one mind: nothing to decide
    optimizer = specialize(lms)
    compiled(lms, student(lms, strategy="selection"), optimizer)
    last = optimizer.report.stages[-1]
    assert (last.note, last.usage.calls, lms["judge"].calls) == ("never asked: nothing to tune", 0, 0)


def test_it_compiles_what_it_compiled() -> None:
    lms = cast()
    once = compiled(lms, student(lms), specialize(lms))
    optimizer = specialize(lms)
    twice = compiled(lms, once, optimizer)
    assert prompts(twice) == prompts(once) and {s.before for s in optimizer.report.stages} == {1.0, None}


def test_an_lm_that_dies_leaves_what_was_tuned_and_the_same_compile_goes_on(tmp_path: Path) -> None:
    lms = cast(judge=FakeLM("judge", lambda prompt: GONE))
    moa = student(lms)
    with pytest.raises(CompileInterrupted, match=r"aggregator failed.*revoked.*ada, bo.*goes on from") as caught:
        compiled(lms, moa, specialize(lms, checkpoint=tmp_path / "c"))
    stopped: Any = caught.value
    kept, spent = stopped.program, calls(lms)
    assert prompts(kept)["proposers.ada.program.predict"] == TIP
    assert stopped.report.calls == spent["ada"] + spent["bo"] + spent["judge"] and spent["judge"] <= 8
    moa.aggregator.lm = lms["judge"] = role("judge")
    optimizer = specialize(lms, checkpoint=tmp_path / "c")
    tuned = compiled(lms, moa, optimizer)
    assert {name: lms[name].calls for name in ("ada", "bo")} == {name: spent[name] for name in ("ada", "bo")}
    assert [stage.resumed for stage in optimizer.report.stages] == [True, True, True, False]
    assert set(prompts(tuned).values()) == {TIP} and tuned(question="q3").answer == "a3"


def mortal(name: str, calls: int) -> FakeLM:
    """Answers so many calls, and no more."""
    left = iter(range(calls))
    good: Any = role(name)._fake.answers
    return FakeLM(name, lambda prompt: good(prompt) if next(left, None) is not None else GONE)


def test_a_stage_that_was_cut_short_goes_on_where_gepa_was(tmp_path: Path) -> None:
    whole, lms = cast(), cast(ada=mortal("ada", 17))
    optimizer = specialize(whole, num_threads=1)
    compiled(whole, student(whole), optimizer)
    with pytest.raises(CompileInterrupted, match=r"ada failed: .*revoked"):
        compiled(lms, student(lms), specialize(lms, num_threads=1, checkpoint=tmp_path / "c"))
    # Evaluated, and once more by GEPA; then it reflected.
    assert (tmp_path / "c" / "ada" / "gepa_state.bin").exists() and (tmp_path / "c" / "compile.json").exists()
    lms = cast()
    again = specialize(lms, num_threads=1, checkpoint=tmp_path / "c")
    tuned = compiled(lms, student(lms), again)
    ada, bo = again.report.stages[:2]
    assert ada.note == "resumed, earlier calls not counted" and not (ada.resumed or bo.resumed)
    # What GEPA had evaluated is not asked again.
    assert ada.runs < optimizer.report.stages[0].runs
    assert set(prompts(tuned).values()) == {TIP} and not (tmp_path / "c" / "ada").exists()


def test_a_folder_in_which_nothing_was_kept_is_for_anyone(tmp_path: Path) -> None:
    lms = cast()
    with pytest.raises(CompileInterrupted):
        compiled(lms, student(lms), specialize(lms, good_for_gold, checkpoint=tmp_path))
    tuned = compiled(lms, student(lms), specialize(lms, checkpoint=tmp_path))
    assert set(prompts(tuned).values()) == {TIP}
    with pytest.raises(ValueError, match="stages of another compile"):
        compiled(lms, student(lms), specialize(lms, never, checkpoint=tmp_path))


def test_a_dead_proposer_ends_it_and_what_was_tuned_before_is_kept() -> None:
    lms = cast(bo=FakeLM("bo", lambda prompt: GONE))
    with pytest.raises(CompileInterrupted, match=r"The stage bo failed: .*revoked") as caught:
        compiled(lms, student(lms), specialize(lms, num_threads=1))
    report: Any = caught.value.report
    assert [(stage.name, stage.kept, stage.note) for stage in report.stages] == [
        ("ada", True, ""),
        ("bo", False, "failed"),
    ]
    assert report.stages[1].usage.failed_calls == lms["bo"].calls and lms["judge"].calls == 0


def test_a_dead_reflection_lm_is_not_tried_for_the_whole_budget() -> None:
    lms = cast(coach=FakeLM("coach", lambda prompt: GONE))
    with pytest.raises(CompileInterrupted, match="revoked"):
        compiled(lms, student(lms), specialize(lms, recipe=Recipe("big", 2, 500, 2, 1, 1, 1)))
    assert lms["ada"].calls < 60 and lms["coach"].calls < 30


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda example, pred, trace=None: "good", "gave 'good', which is no score"),
        (lambda example, pred, trace=None: example.nothing, "raised AttributeError"),
    ],
)
def test_a_metric_that_gives_gold_no_score_is_refused_before_anything_is_asked(metric: Any, message: str) -> None:
    lms = cast()
    with pytest.raises(MetricError, match=message):
        compiled(lms, student(lms), specialize(lms, metric))
    assert sum(calls(lms).values()) == 0


def good_for_gold(example: Any, pred: Any, trace: Any = None) -> Any:
    """No score for what any LM says."""
    return True if pred.answer == example.answer and pred.metadata.usage.calls == 0 else "good"


def test_a_metric_that_gives_an_answer_no_score_ends_it() -> None:
    lms = cast()
    with pytest.raises(CompileInterrupted, match=r"stage ada failed: .* gave 'good'"):
        compiled(lms, student(lms), specialize(lms, good_for_gold))
    assert sum(calls(lms).values()) <= 12


def test_bad_input_is_refused_before_anything_is_asked() -> None:
    lms = cast()
    moa = student(lms)
    gepa = dspy.GEPA(metric=lambda g, p, t, n, s: 0, reflection_lm=lms["coach"], max_metric_calls=9)
    refused: list[tuple[Any, Any, dict[str, Any]]] = [
        (ValueError, "too little for one round of GEPA: .* at least 12", {"optimizer": gepa}),
        (ValueError, "trainset is empty", {"trainset": []}),
        (ValueError, "input question is missing", {"trainset": [dspy.Example(q="?").with_inputs("q")]}),
        (TypeError, "a Outer has none of its own", {"student": Outer(moa)}),
        (TypeError, "no optimizer could call it", {"metric": lambda one: 1}),
        (TypeError, "has none", {"optimizer": dspy.GEPA}),
        (ValueError, "num_threads=0", {"num_threads": 0}),
        (ValueError, "no recipe 'huge'", {"recipe": "huge"}),
    ]
    for error, message, changed in refused:
        settings = {name: changed.pop(name) for name in list(changed) if name not in ("student", "trainset")}
        with pytest.raises(error, match=message):
            specialize(lms, **settings).compile(**{"student": moa, "trainset": TRAIN, **changed})
    assert sum(calls(lms).values()) == 0


def test_without_an_lm_to_propose_prompts_it_says_so() -> None:
    moa = MoA(Task, [dspy.ChainOfThought(Task)], strategy="voting")
    with pytest.raises(ValueError, match="no LM that could propose prompts"):
        Specialize(right).compile(moa, trainset=TRAIN)


@pytest.mark.parametrize("threads", [1, 3])
def test_optimizers_are_quiet_and_nobody_else(
    threads: int, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR", "moa_dspy")  # our own warnings go where their loggers send them

    def metric(example: Any, pred: Any, trace: Any = None, *_: Any) -> bool:
        if not said:
            said.append("once")
            other = threading.Thread(target=print, args=["another thread"])
            other.start()
            other.join()
            print("the metric")
        return right(example, pred)

    lms, said = cast(), list[str]()
    gepa, search = None, dspy.BootstrapFewShotWithRandomSearch(right, num_candidate_programs=1)
    capsys.readouterr()
    for inner in (gepa, search):
        compiled(lms, student(lms), specialize(lms, metric, optimizer=inner, num_threads=threads))
        assert capsys.readouterr() == ("another thread\nthe metric\n", "")
        said.clear()
    with pytest.raises(CompileInterrupted):  # the bars of what fails, too
        compiled(lms, student(lms), specialize(lms, good_for_gold))
    gc.collect()
    assert capsys.readouterr() == ("", "")
    compiled(lms, student(lms), specialize(lms, verbose=True))
    assert "GEPA Optimization" in capsys.readouterr().err
