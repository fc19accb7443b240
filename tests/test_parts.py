from typing import Any

import dspy

from moa_dspy.parts import parts


def holding(**attributes: Any) -> Any:
    module = dspy.Module()
    vars(module).update(attributes)
    return module


def test_are_found_with_their_paths_in_lists_and_dicts_too() -> None:
    one, two, three = (dspy.Predict("a -> b") for _ in range(3))
    module = holding(first=one, steps=[two, ("x", {"k": three})], text="x" * 10, numbers=[1, 2])
    assert list(parts(module, dspy.Predict)) == [(".first", one), (".steps.0", two), (".steps.1.1.k", three)]


def test_are_found_once() -> None:
    one = dspy.Predict("a -> b")
    module = holding(first=one, again=one)
    module.parent = module
    assert list(parts(module, dspy.Predict)) == [(".first", one)]


def test_inside_what_is_found_are_left_out() -> None:
    inner = dspy.ChainOfThought("a -> b")
    module = holding(inner=inner)
    assert list(parts(module, dspy.ChainOfThought, dspy.Predict)) == [(".inner", inner)]


def test_may_be_the_module_itself() -> None:
    one = dspy.Predict("a -> b")
    assert list(parts(one, dspy.Predict)) == [("", one)]


def test_are_not_looked_for_in_history_and_demos() -> None:
    one = dspy.Predict("a -> b")
    module = holding(**{name: [one] for name in ("history", "callbacks", "demos", "traces", "train")})
    assert list(parts(module, dspy.Predict)) == []
