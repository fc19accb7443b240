import inspect
from typing import Any

import dspy
import pytest
from dspy.propose.utils import get_dspy_source_code
from support.fake_lm import FakeLM
from support.mixtures import calls
from support.roles import TRAIN, Outer, right, role, student

from moa_dspy import Agent, MoA
from moa_dspy.signatures import tell_apart

ROLES = ("ada", "bo", "judge")
SECRET = "sk-verysecret0123456789"


def bootstrapped(program: Any) -> Any:
    return dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=1, max_labeled_demos=0).compile(
        program, trainset=TRAIN
    )


class TestCompiledMixtureInsideAProgram:
    """DSPy freezes a compiled module inside a program: it runs as it is, and is neither tuned nor saved with it."""

    def test_runs_on_its_own_lms_with_its_demos(self) -> None:
        lms = {name: role(name) for name in ROLES}
        outer = Outer(bootstrapped(student(lms)))
        tuned: Any = dspy.LabeledFewShot(k=1).compile(outer, trainset=TRAIN)
        before = calls(lms)
        assert tuned(question="q3").answer == "a3"
        assert calls(lms) == {name: count + 1 for name, count in before.items()}

    def test_is_missing_from_the_programs_state_until_it_is_thawed(self) -> None:
        lms = {name: role(name) for name in ROLES}
        outer = Outer(bootstrapped(student(lms)))
        assert (outer.predictors(), outer.dump_state()) == ([], {})
        outer.moa._compiled = False
        fresh = Outer(student(lms))
        fresh.load_state(outer.dump_state())
        assert fresh.dump_state() == outer.dump_state()
        assert fresh(question="q3").answer == "a3" and {predictor.lm for predictor in fresh.predictors()} == {None}

    def test_is_pickled_with_the_program(self, tmp_path: Any) -> None:
        lms = {name: role(name) for name in ROLES}
        Outer(bootstrapped(student(lms))).save(tmp_path / "outer", save_program=True)
        loaded: Any = dspy.load(str(tmp_path / "outer"), allow_pickle=True)
        assert loaded(question="q3").answer == "a3"


class TestProgramAwareOptimizers:
    """MIPROv2, SIMBA and Refine show the program's source code to their prompt model."""

    @pytest.mark.parametrize("strategy", ["synthesis", "selection", "voting", "fusion"])
    def test_find_the_code_and_no_secret_in_it(self, strategy: Any) -> None:
        lm = dspy.LM("openai/gpt-x", api_key=SECRET, extra_headers={"Authorization": f"Bearer {SECRET}"})
        moa = MoA("question -> answer", [lm, Agent(lm, name="bo")], lm, strategy, use_specialized_prompts=True)
        code = get_dspy_source_code(Outer(moa))
        classes = ["Outer", "MoA", "Panel", "Agent", type(moa.strategy).__name__]
        assert [name for name in classes if f"class {name}(" not in code] == []
        assert SECRET not in code and SECRET not in repr(moa)
        assert inspect.getsource(type(moa)) in code

    @pytest.mark.parametrize("kind", [MoA, Agent])
    def test_are_not_sent_long_classes(self, kind: type) -> None:
        assert len(inspect.getsource(kind)) < 12_000


class TestLookalikes:
    def test_two_mixtures_of_one_task_in_a_program_are_told_apart_by_hand(self) -> None:
        class Two(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first = student({name: role(name) for name in ROLES})
                self.second = student({name: role(name) for name in ROLES})

        two = Two()
        assert _lookalikes(two) == 3
        tell_apart(two.named_predictors())
        assert _lookalikes(two) == 0


def _lookalikes(program: dspy.Module) -> int:
    signatures: list[Any] = [predictor.signature for predictor in program.predictors()]
    return sum(a.equals(b) for n, a in enumerate(signatures) for b in signatures[n + 1 :])


def test_a_copys_signatures_are_its_own_and_ask_the_same() -> None:
    lms = {name: FakeLM(name, lambda _: {"reasoning": "r", "answer": "a"}) for name in ROLES}
    for specialized in (False, True):
        moa = student(lms, specialized)
        pairs = list(zip(moa.predictors(), moa.deepcopy().predictors(), strict=True))
        assert all(a.signature is not b.signature and a.signature.equals(b.signature) for a, b in pairs)
