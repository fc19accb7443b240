"""The public surface is what `__all__` says."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

import moa_dspy
import moa_dspy.optimizers
import moa_dspy.signatures


@pytest.mark.parametrize(
    "package", [moa_dspy, moa_dspy.optimizers, moa_dspy.signatures], ids=lambda package: package.__name__
)
def test_every_name_is_there_once(package: ModuleType) -> None:
    names = package.__all__
    assert len(set(names)) == len(names)
    assert [name for name in names if getattr(package, name, None) is None] == []


def test_lazy_names_are_the_public_ones() -> None:
    assert sorted(name for names in moa_dspy._MODULES.values() for name in names) == sorted(moa_dspy.__all__)


def test_tracking_is_there_by_name_and_not_by_a_star() -> None:
    names = set(moa_dspy._TRACKING)
    assert names == {"autolog", "load_model", "load_prompts", "log_model", "register_prompts", "track"}
    assert [name for name in names if not callable(getattr(moa_dspy, name))] == []
    assert not names & set(moa_dspy.__all__) and names <= set(dir(moa_dspy))


def test_without_mlflow_its_names_say_what_is_missing() -> None:
    code = (
        "import sys; sys.modules['mlflow'] = None\n"
        "import moa_dspy\n"
        "from moa_dspy import track\n"
        "print(hasattr(moa_dspy, 'log_model'))\n"
        "try: track(None)\n"
        "except ImportError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = "Tracking needs MLflow, which is not installed: pip install 'moa-dspy[mlflow]'."
    assert result.stdout.splitlines() == ["True", said]
