"""Every code block of the README runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import moa_dspy

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_python_blocks_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for language, text in BLOCKS:
        if language == "yaml":
            Path("moa.yaml").write_text(text, encoding="utf-8")
    names: dict[str, object] = {}
    try:
        for language, text in BLOCKS:
            if language == "python":
                exec(compile(text, "README.md", "exec"), names)
    finally:
        import mlflow

        moa_dspy.autolog(disable=True)
        mlflow.set_tracking_uri("")
    assert {"moa", "pred", "solution", "metadata"} <= names.keys()


def test_the_commands_are_there() -> None:
    from moa_dspy.cli import app

    commands = {command.name for command in app.registered_commands}
    assert set(re.findall(r"^\$ moa-dspy (\w+)", README, re.MULTILINE)) <= commands


def test_ci_runs_the_tests_as_the_readme_says() -> None:
    ci = Path(__file__).parents[1] / ".ci" / "run"
    if not ci.exists():
        pytest.skip("no .ci/run beside the tests: this is not a checkout")
    command = re.search(r"^(pip install uv && uv run pytest)", README, re.MULTILINE)
    assert command is not None
    assert command[1] in ci.read_text(encoding="utf-8").replace("--quiet ", "")
