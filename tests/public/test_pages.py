"""Every snippet and every console line of the README and of the docs runs as printed, in order, offline."""

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import mlflow
import pytest
from support.mlflow_store import template as template
from support.mlflow_store import untracked as untracked
from typer.testing import CliRunner

import moa_dspy
from moa_dspy import MoAConfig
from moa_dspy.cli import app
from moa_dspy.simulated.questions import bundled_questions

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# They serve until they are closed, or talk.
STAY = {"ui", "serve", "mcp", "chat"}


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """The fenced blocks of a page, as language and text."""
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands_of(page: Path) -> list[list[str]]:
    """The console lines of a page that run moa-dspy, as words."""
    console = [text for kind, text in blocks_of(page) if kind == "console"]
    lines = [line for text in console for line in re.findall(r"^\$ moa-dspy (.*)", text, re.MULTILINE)]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "```python" in p.read_text(encoding="utf-8")], ids=lambda p: p.stem
)
def test_the_snippets_run_and_print_what_is_shown(
    page: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(template, "mlflow.db")
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("Default")  # whatever other tests have left
    blocks, names, printed = blocks_of(page), {"__name__": page.stem}, ""
    for text in (text for kind, text in blocks if kind == "yaml" and text.startswith("# ")):
        Path(text.split()[1]).write_text(text, encoding="utf-8")
    try:
        for kind, text in blocks:
            if kind == "python":
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile(text, page.name, "exec"), names)
                printed = out.getvalue()
            elif kind == "text":
                assert text == printed
    finally:
        moa_dspy.autolog(disable=True)
        mlflow.set_tracking_uri("")


@pytest.fixture(params=[page for page in PAGES if commands_of(page)], ids=lambda page: page.stem)
def page(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with console lines; the folder holds what it takes for granted: a config, and questions."""
    monkeypatch.chdir(tmp_path)
    if request.param.stem != "README":  # which begins in an empty folder
        models: list[Any] = [f"simulated/{name}" for name in ("alice", "bob", "carol")]
        MoAConfig(proposer_models=models, aggregator_model="simulated/judge").save("moa.yaml")
        rows = "".join(json.dumps(dict(question.items())) + "\n" for question in bundled_questions()[:24])
        for name in ("data.jsonl", "questions.jsonl"):
            Path(name).write_text(rows, encoding="utf-8")
    return request.param


def test_every_console_line_runs(page: Path) -> None:
    for command in commands_of(page):
        target = command[command.index(">") + 1] if ">" in command else None
        words = command[: command.index(">")] if target else command
        result = CliRunner().invoke(app, [words[0], "--help"] if words[0] in STAY else words, env={"COLUMNS": "80"})
        assert result.exit_code == 0 and result.output, (words, result.output)
        if target is not None:
            Path(target).write_text(result.stdout, encoding="utf-8")


def test_every_command_is_shown_and_has_help_and_json() -> None:
    shown = {command[0] for command in commands_of(ROOT / "docs" / "commands.md")}
    assert shown == {command.name for command in app.registered_commands}
    for name in shown - STAY - {"data", "init"}:  # what they give is for machines
        assert "--json" in CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).output


def test_every_page_is_in_the_site_and_every_link_leads_somewhere() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert sorted(re.findall(r"- (\w+\.md)$", site, re.MULTILINE)) == [page.name for page in PAGES[1:]]
    for page in [*PAGES, ROOT / "examples" / "README.md"]:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links {link}"
