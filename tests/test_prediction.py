import copy
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, cast, mixture, says

from moa_dspy import MoA, MoAMetadata, MoAPrediction


def answered(**options: Any) -> Any:
    return mixture(cast("a", "b", "judge"), **options)(question="?")


class TestFields:
    def test_are_the_tasks_outputs_only(self) -> None:
        pred = answered()
        assert (dict(pred.items()), pred.keys(), pred.toDict(), len(pred)) == (
            {"answer": "judge"},
            ["answer"],
            {"answer": "judge"},
            1,
        )
        assert "metadata" not in pred and "proposals" not in pred
        assert repr(pred) == "Prediction(\n    answer='judge'\n)"

    def test_are_what_dspy_majority_votes_on(self) -> None:
        assert dspy.majority([answered(), answered(), dspy.Prediction(answer="x")]).answer == "judge"

    def test_are_what_evaluate_shows(self) -> None:
        evaluate = dspy.Evaluate(
            devset=EXAMPLES[:1], metric=lambda example, pred: pred.answer == "judge", display_progress=False
        )
        result = evaluate(mixture(cast("a", "judge")))
        assert result.score == 100 and result.results[0][1].toDict() == {"answer": "judge"}

    def test_equal_those_of_another_call(self) -> None:
        assert answered() == answered() == dspy.Prediction(answer="judge")

    def test_score_makes_a_number(self) -> None:
        lm = FakeLM("a", lambda prompt: {"reasoning": "r", "score": 0.5})
        assert float(MoA("question -> score: float", [lm], strategy="voting")(question="?")) == 0.5

    def test_completions_are_kept(self) -> None:
        assert answered().completions.answer == ["judge"]


class TestBeside:
    def test_proposals_are_those_of_the_last_layer_in_declared_order(self) -> None:
        pred = answered(layers=2, num_proposals_per_model=2)
        assert [(p.layer, p.id) for p in pred.proposals] == [(2, "a"), (2, "a#2"), (2, "b"), (2, "b#2")]
        assert len(pred.metadata.all_proposals) == 8

    def test_metadata_is_the_account(self) -> None:
        assert isinstance(answered().metadata, MoAMetadata)

    @pytest.mark.parametrize(
        "copied",
        [copy.copy, copy.deepcopy, lambda pred: pred.copy()],
        ids=["copy", "deepcopy", "Example.copy"],
    )
    def test_goes_with_copies(self, copied: Any) -> None:
        pred = answered()
        again = copied(pred)
        assert (again, again.metadata, again.proposals) == (pred, pred.metadata, pred.proposals)

    def test_goes_with_a_changed_copy(self) -> None:
        pred = answered()
        changed = pred.copy(answer="other")
        assert (changed.answer, changed.metadata, pred.answer) == ("other", pred.metadata, "judge")

    @pytest.mark.parametrize("name", ["metadata", "proposals"])
    def test_is_missing_from_a_prediction_that_was_made_by_hand(self, name: str) -> None:
        pred = MoAPrediction(answer="x")
        with pytest.raises(AttributeError, match=f"No {name}: this prediction was made of its fields alone"):
            getattr(pred, name)
        assert not hasattr(pred, name) and pred.answer == "x"

    def test_other_names_are_missing_as_ever(self) -> None:
        with pytest.raises(AttributeError, match=r"'MoAPrediction' object has no attribute 'nothing'"):
            _ = answered().nothing

    def test_usage_rides_along_as_dspy_has_it(self) -> None:
        moa: Any = mixture(cast("a", "judge"))
        with dspy.context(track_usage=True):
            assert {*moa(question="?").get_lm_usage()} == {"a", "judge"}
        assert moa(question="?").get_lm_usage() is None


def test_demo_of_a_mixture_inside_a_program_holds_its_outputs_only() -> None:
    class Outer(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.moa = mixture(cast("a", "judge"))
            self.last = dspy.Predict("draft -> answer")

        def forward(self, question: str) -> Any:
            return self.last(draft=self.moa(question=question).answer)

    with dspy.context(lm=FakeLM("last", says("x"))):
        tuned = dspy.BootstrapFewShot(metric=lambda *_: True, max_bootstrapped_demos=1).compile(
            Outer(), trainset=EXAMPLES
        )
    assert tuned.last.demos[0].toDict() == {"augmented": True, "draft": "judge", "answer": "x"}
