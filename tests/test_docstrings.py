"""Every example in a docstring that shows its result gives that result."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import moa_dspy
import moa_dspy.optimizers
import moa_dspy.signatures


def _modules() -> list[str]:
    # The two folders at the top level are listed by themselves: an editable install hides them from the walk.
    packages = (moa_dspy, moa_dspy.signatures, moa_dspy.optimizers)
    found = {
        module.name
        for package in packages
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
        if not module.name.endswith("__main__")
    }
    return sorted(found)


@pytest.mark.parametrize("name", _modules())
def test_examples_run(name: str) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert failed == 0
