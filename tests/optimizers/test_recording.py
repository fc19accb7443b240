import json
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

import dspy
import pydantic
import pytest
from dspy.utils.parallelizer import tqdm
from support.fake_lm import FakeLM
from support.mixtures import calls

from moa_dspy import MoA
from moa_dspy.optimizers import CompileInterrupted, Specialize, specialized

GONE = dspy.lm15.AuthError("the key was revoked")


class Place(pydantic.BaseModel):
    name: str
    founded: date


class Where(dspy.Signature):
    """Find the place."""

    question: str = dspy.InputField()
    place: Place = dspy.OutputField()
    score: float = dspy.OutputField()


BONN = Place(name="Bonn", founded=date(1815, 1, 2))
TWICE = [dspy.Example(question="where?", place=BONN, score=0.5).with_inputs("question")] * 2


def right(example: Any, pred: Any, trace: Any = None) -> bool:
    return bool(pred.place == example.place)


def cast(judge: Any) -> dict[str, FakeLM]:
    answer = {"reasoning": "so", "place": {"name": "Bonn", "founded": "1815-01-02"}, "score": 0.5}
    lms = {name: FakeLM(name, lambda prompt: answer) for name in ("ada", "bo")}
    return {**lms, "judge": FakeLM("judge", lambda prompt: judge or answer)}


def mixture(lms: dict[str, FakeLM]) -> MoA:
    return MoA(Where, [lms["ada"], lms["bo"]], lms["judge"])


def test_typed_proposals_are_recorded_once_and_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optimizer": dspy.LabeledFewShot(k=1), "checkpoint": tmp_path, "num_threads": 1}
    dead = cast(GONE)
    with pytest.raises(CompileInterrupted):
        Specialize(right, **settings).compile(mixture(dead), trainset=TWICE)
    # Evaluated on both, before and after; recorded once for the two that are alike.
    assert (dead["ada"].calls, dead["bo"].calls) == (5, 5)
    [kept] = json.loads((tmp_path / "proposals.json").read_text())["recording"].values()
    assert [proposal["outputs"]["place"]["founded"] for proposal in kept["proposals"]] == ["1815-01-02"] * 2
    alive = cast(None)
    optimizer = Specialize(right, **settings)
    tuned: Any = optimizer.compile(mixture(alive), trainset=TWICE)
    assert calls(alive) == {"ada": 0, "bo": 0, "judge": 4}
    assert optimizer.report.stages[-1].after == 1.0
    assert [part.demos[0]["place"] for part in tuned.predictors()] == [BONN] * 3


def test_a_specialized_copy_carries_over_what_was_shared() -> None:
    moa: Any = mixture(cast(None))
    [shared, _] = moa.predictors()
    shared.signature = shared.signature.with_instructions("Look at the map.")
    shared.demos = [{"question": "?", "place": BONN, "score": 1.0}]
    copy: Any = specialized(moa)
    ada, bo, _ = copy.predictors()
    assert [part.signature.instructions for part in (ada, bo)] == ["Look at the map."] * 2
    assert ada.demos == bo.demos == shared.demos and ada.demos is not bo.demos
    assert not ada.signature.equals(bo.signature) and not moa.use_specialized_prompts
    assert [agent.lm for agent in copy.agents] == [agent.lm for agent in moa.agents]


class Crossing(dspy.LabeledFewShot):
    """Meets another evaluation at the wrong moment, once."""

    met: ClassVar[list[str]] = []

    def compile(self, student: Any, *, trainset: Any, sample: bool = True) -> Any:
        if not self.met:
            self.met.append("once")
            bar: Any = tqdm.tqdm.__new__(tqdm.tqdm)
            bar._instances.clear()
            bar.__init__(total=1, disable=True)
        return super().compile(student, trainset=trainset, sample=sample)


def test_a_compile_that_another_ones_progress_bar_ended_is_done_again() -> None:
    optimizer = Specialize(right, optimizer=Crossing(k=1))
    optimizer.compile(mixture(cast(None)), trainset=TWICE)
    assert Crossing.met == ["once"]
    assert [stage.note for stage in optimizer.report.stages if stage.note == "failed"] == []
