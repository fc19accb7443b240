"""Every snippet and every console line of the README runs, in order, offline."""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
from support.mlflow_store import served
from support.mlflow_store import template as template
from support.mlflow_store import untracked as untracked
from typer.testing import CliRunner

from moa_dspy import MoA, MoAConfig, MoAPrediction
from moa_dspy.cli import app
from moa_dspy.simulated.questions import bundled_questions

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
CONSOLE = [line for kind, text in BLOCKS if kind == "console" for line in re.findall(r"^\$ (.*)", text, re.MULTILINE)]
COMMANDS = [shlex.split(line, comments=True)[1:] for line in CONSOLE if line.startswith("moa-dspy ")]


@pytest.fixture(scope="module")
def ran(template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the Python snippets leave behind, run in order in a folder with the YAML that is shown."""
    folder = tmp_path_factory.mktemp("readme")
    shutil.copy(template, folder / "mlflow.db")
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        mlflow.set_experiment("Default")  # whatever other tests have left
        for language, text in BLOCKS:
            if language == "yaml":
                Path("moa.yaml").write_text(text, encoding="utf-8")
        for language, text in BLOCKS:
            if language == "python":
                exec(compile(text, "README.md", "exec"), names)
        [body] = [re.findall(r"-d '(.*)'", line)[0] for line in CONSOLE if line.startswith("curl ")]
        names["posted"] = served(mlflow.pyfunc.load_model(names["info"].model_uri), json.loads(body))
        names["folder"] = folder
        names["moa_dspy"].autolog(disable=True)
        mlflow.set_tracking_uri("")
    return names


def test_the_snippets_do_what_they_say(ran: dict[str, Any]) -> None:
    assert isinstance(ran["pred"], MoAPrediction) and ran["pred"].answer and len(ran["pred"].proposals) == 3
    assert (ran["meta"].strategy, ran["meta"].usage.cost_usd) == ("synthesis", None)
    assert (ran["brief"].strategy.name, ran["classify"].strategy.weights) == ("shortest", {"alice": 2.0})
    assert ran["solution"].answer and len(ran["metadata"].all_proposals) == 2
    assert isinstance(ran["config"], MoAConfig) and isinstance(MoA.from_file(ran["folder"] / "tuned.json"), MoA)


def test_the_optimizers_report_what_they_did(ran: dict[str, Any]) -> None:
    assert 0 < ran["optimizer"].report.calls < ran["optimizer"].report.joint_calls
    assert ran["fitter"].report.reason and set(ran["weighted"].strategy.weights) <= {"alice", "bob", "carol"}
    assert ran["selector"].report.reason and isinstance(ran["committee"], MoA)
    assert ran["committee"](question="What is 2 + 2?").metadata.usage.calls <= 2
    assert ran["diagnosis"].recommendation.reason and ran["diagnosis"].reasons and ran["diagnosis"].to_dict()


def test_tracking_leaves_a_run_and_a_model_that_answers(ran: dict[str, Any]) -> None:
    assert ran["tracked"].run_id and ran["tracked"].usage.calls > 0
    assert ran["answered"]["outputs"][0]["answer"] and ran["answered"]["account"][0]["error"] is None
    [row] = ran["posted"]
    assert row["outputs"] == ran["answered"]["outputs"][0] and row["account"]["error"] is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the console lines run, one after another: with simulated models, and data."""
    folder = tmp_path_factory.mktemp("console")
    models: list[Any] = [f"simulated/{name}" for name in ("alice", "bob", "carol")]
    MoAConfig(proposer_models=models, aggregator_model="simulated/judge").save(folder / "moa.yaml")
    rows = [json.dumps(dict(question.items())) for question in bundled_questions()[:24]]
    for name in ("data.jsonl", "questions.jsonl"):
        (folder / name).write_text("\n".join(rows), encoding="utf-8")
    return folder


def test_every_console_line_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for command in COMMANDS:
        if command[0] == "ui":  # serves until it is closed
            command = ["ui", "--help"]
        if command[0] == "compile" and Path("tuned.json").exists():
            command = [*command, "--force"]
        result = CliRunner().invoke(app, command, env={"COLUMNS": "80"})
        assert result.exit_code == 0 and result.output, (command, result.output)
    assert {"answers.jsonl", "eval.png", "quality.png", "tuned.json"} <= {path.name for path in folder.iterdir()}


def test_every_command_is_shown_and_has_help_and_json() -> None:
    assert {command[0] for command in COMMANDS} == {command.name for command in app.registered_commands}
    for name in {command[0] for command in COMMANDS} - {"ui", "data", "init"}:  # what they give is for machines
        assert "--json" in CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output
