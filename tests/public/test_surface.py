"""What there is to import, and that these tests import nothing else."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import moa_dspy
import moa_dspy.optimizers

TRACKING = {"autolog", "load_model", "log_model", "register_prompts", "track"}
OPTIMIZERS = {"Calibrate", "FitCascade", "FitRoute", "prove"}
OPTIMIZERS |= {"Finetune", "FitVoteWeights", "SelectCommittee", "Specialize", "diagnose", "tune_weights"}
MODULES = {
    "moa_dspy",
    "moa_dspy.cli",
    "moa_dspy.optimizers",
    "moa_dspy.simulated",
    "moa_dspy.simulated.questions",
}
SUPPORT = {
    *("attacks", "fake_engine", "fake_lm", "faults", "gate", "misuse", "mixtures", "mlflow_server", "mlflow_store"),
    *("openai_server", "openai_wire", "recording", "rendering", "roles", "shown"),
}
HERE = Path(__file__).parent
FILES = sorted([*HERE.glob("*.py"), *(HERE.parent / "support" / f"{name}.py" for name in SUPPORT)])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_public_tests_import_public_names_only(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    modules = re.findall(r"^\s*(?:from|import) (moa_dspy[\w.]*)", text, re.MULTILINE)
    helpers = re.findall(r"^\s*from support\.(\w+)", text, re.MULTILINE)
    names = re.findall(r"^\s*from moa_dspy import \(?([^)\n]*|[^)]*)\)?$", text, re.MULTILINE)
    asked_for = {name for group in names for name in re.findall(r"\w+", group)}
    assert {*modules} <= MODULES and {*helpers} <= SUPPORT
    assert asked_for <= {*moa_dspy.__all__} | TRACKING


def test_every_public_name_is_there_and_documented() -> None:
    things = [getattr(moa_dspy, name) for name in [*moa_dspy.__all__, *TRACKING]]
    things += [getattr(moa_dspy.optimizers, name) for name in OPTIMIZERS]
    assert moa_dspy.__all__ == sorted({*moa_dspy.__all__})
    assert [thing for thing in things if not inspect.getdoc(thing)] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="MoaA"):
        moa_dspy.MoaA  # noqa: B018


def test_importing_and_building_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom moa_dspy import *\nimport moa_dspy.optimizers\n"
        "MoA('question -> answer', ['openai/gpt-5.4-mini', 'simulated/alice'], 'anthropic/claude-haiku-4-5')\n"
        "print([name for name in ('litellm', 'mlflow', 'matplotlib', 'pandas', 'typer') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
