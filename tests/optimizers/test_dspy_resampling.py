import re
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import calls
from support.roles import Outer, Task, never, role, student
from support.roles import coach as coaching

from moa_dspy import MoA

LABELS = {"choice": "P2", "groups": [["P1"], ["P2"]], "best": "P2", "elements": []}


class TestBestOfN:
    @pytest.mark.parametrize("nested", [False, True], ids=["moa", "outer"])
    def test_attempts_times_proposals_are_all_different_samples(self, nested: bool) -> None:
        lms = {name: role(name) for name in ("ada", "bo", "judge")}
        program = student(lms, nested, nested, num_proposals_per_model=3)
        dspy.BestOfN(program, N=3, reward_fn=never, threshold=1.0)(question="q3")
        assert (
            {name: len(set(lm.rollouts)) for name, lm in lms.items()} == calls(lms) == {"ada": 9, "bo": 9, "judge": 3}
        )

    def test_layers_are_resampled_too(self) -> None:
        lms = {name: role(name) for name in ("ada", "bo", "judge")}
        dspy.BestOfN(student(lms, False, layers=2), N=2, reward_fn=never, threshold=1.0)(question="q3")
        assert [lms[name].rollouts for name in ("ada", "bo", "judge")] == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 1]]


class TestRefine:
    @pytest.mark.parametrize("wrapped", [lambda moa: moa, Outer], ids=["moa", "outer"])
    @pytest.mark.parametrize("strategy", ["synthesis", "selection", "voting", "fusion"])
    def test_each_hint_reaches_its_predictor_at_the_next_sample(self, strategy: Any, wrapped: Any) -> None:
        lms = {name: FakeLM(name, [_says(name)] * 2) for name in ("ada", "bo", "judge")}
        moa = MoA(Task, [lms["ada"], lms["bo"]], lms["judge"], strategy, use_specialized_prompts=True)
        adviser = FakeLM("adviser", coaching)
        with dspy.context(lm=adviser):
            dspy.Refine(wrapped(moa), N=2, reward_fn=never, threshold=1.0)(question="q1")
        asks = {"synthesis": "synthesize", "selection": "select", "voting": "group", "fusion": "fuse"}[strategy]
        hint = re.compile(r"Hint for (?:moa\.)?([\w.]+)\.")
        hints = {name: [hint.findall(prompt) for prompt in lm.prompts] for name, lm in lms.items()}
        assert hints == {
            "ada": [[], ["proposers.ada.program.predict"]],
            "bo": [[], ["proposers.bo.program.predict"]],
            "judge": [[], [f"aggregator.program.{asks}"]],
        }
        assert all(lm.rollouts == [0, 1] for lm in lms.values()) and adviser.calls == 1

    def test_the_shared_prompts_hint_reaches_all_who_share_it(self) -> None:
        lms = {name: FakeLM(name, [_says(name)] * 2) for name in ("ada", "bo", "judge")}
        with dspy.context(lm=FakeLM("adviser", coaching)):
            moa = MoA(Task, [lms["ada"], lms["bo"]], lms["judge"])
            dspy.Refine(moa, N=2, reward_fn=never, threshold=1.0)(question="q1")
        assert ["Hint for proposers.shared.predict." in lms[name].prompts[1] for name in ("ada", "bo")] == [True, True]

    @pytest.mark.parametrize("strategy", ["selection", "voting", "fusion"])
    def test_a_label_that_was_not_shown_is_still_repaired(self, strategy: Any) -> None:
        wrong = {"choice": "P7", "groups": [["P7"]], "best": "P7", "elements": [_element("P7")]}
        judge = FakeLM("judge", [_says("judge"), {**_says("judge"), **wrong}, _says("judge")])
        proposers = [FakeLM(name, [_says(name)] * 2) for name in ("ada", "bo")]
        with dspy.context(lm=FakeLM("adviser", coaching)):
            refined = dspy.Refine(MoA(Task, proposers, judge, strategy), N=2, reward_fn=_second, threshold=1.0)
            metadata = refined(question="q1").metadata
        judge.assert_used_up()
        assert (metadata.repaired, metadata.fallback_used) == (True, False)


def _says(name: str) -> dict[str, Any]:
    return {"reasoning": f"{name} wrote this", "answer": name, **LABELS}


def _element(label: str) -> dict[str, Any]:
    return {"statement": "s", "kind": "unique", "supported_by": [label], "resolution": None}


def _second(inputs: Any, prediction: Any) -> float:
    """Prefers the attempt that was repaired."""
    return float(prediction.metadata.repaired)
