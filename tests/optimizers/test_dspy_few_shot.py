from collections.abc import Sequence
from typing import Any

import dspy
import numpy as np
from support.compiling import TRAIN, Setting, compiled, every_setting, right


def embed(texts: Sequence[str]) -> Any:
    """Questions whose numbers are close lie close."""
    return np.array([[1.0, float(text[-1])] for text in texts])


class TestLabeledFewShot:
    @every_setting
    def test_every_predictor_gets_the_examples_and_every_role_keeps_its_lm(self, setting: Setting) -> None:
        run = compiled(setting, lambda program, _: dspy.LabeledFewShot(k=2).compile(program, trainset=TRAIN))
        assert (run.during, run.after) == (dict.fromkeys(run.lms, 0), dict.fromkeys(run.lms, 1))
        assert all(demo in TRAIN for predictor in run.tuned.predictors() for demo in predictor.demos)
        assert {len(predictor.demos) for predictor in run.tuned.predictors()} == {2}
        assert all("[[ ## question ## ]]\nq" in prompt for lm in run.lms.values() for prompt in lm.prompts)


class TestKNNFewShot:
    @every_setting
    def test_each_call_is_bootstrapped_on_the_nearest_examples(self, setting: Setting) -> None:
        def compile(program: Any, _: Any) -> Any:
            options: dict[str, Any] = {"metric": right, "max_bootstrapped_demos": 1, "max_labeled_demos": 1}
            return dspy.KNNFewShot(k=2, trainset=TRAIN, vectorizer=dspy.Embedder(embed), **options).compile(program)

        run = compiled(setting, compile)
        # The two nearest, of which the first or the second is even, then the question itself.
        assert (run.during, run.after) == (dict.fromkeys(run.lms, 0), dict.fromkeys(run.lms, 3))
        assert all("wrote this" in lm.prompts[-1] for lm in run.lms.values())
