import json
from pathlib import Path
from typing import Any

import pytest
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.rendering import render
from typer.testing import CliRunner, Result

from moa_dspy.cli import app

CAPITAL = "What is the capital of Scotland?"
QA = "question -> answer"


def ask(*arguments: str, columns: int = 80) -> Result:
    return CliRunner().invoke(app, ["ask", *arguments], env={"COLUMNS": str(columns)})


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def answers(**said: str) -> Any:
    """Each model says its own; the ones that are not named fail."""

    def answer(request: ChatRequest) -> Reply:
        if request.model not in said:
            return Reply("the key sk-abcdefghijklmnopqrst is no good", status=401)
        return Reply(render("chat", {"reasoning": "so", "answer": said[request.model]}))

    return answer


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("OPENAI_API_KEY", "any-key")

    def write(server: OpenAIServer, *models: str, **settings: Any) -> str:
        entries = [{"model": f"openai/{model}", "api_base": server.url, "num_retries": 0} for model in models]
        path = tmp_path / "moa.json"
        path.write_text(json.dumps({"proposer_models": entries[:-1], "aggregator_model": entries[-1], **settings}))
        return str(path)

    return write


def test_the_answer_comes_first_then_who_said_it_and_what_it_cost() -> None:
    result = ask(CAPITAL)
    shown = lines(result.stdout)
    assert result.exit_code == 0 and shown[1] == "│ Edinburgh │"
    assert shown[3].startswith("synthesis of 4 proposals, agreement 100%, ")
    assert shown[5:10] == [
        "proposer proposal agrees",
        *(f"{n} Edinburgh yes" for n in ("alice", "bob", "carol", "dave")),
    ]
    assert shown[11] == "agent model calls tokens in out cost seconds"
    assert [line.split()[:3] for line in shown[12:]] == [
        *([name, f"simulated/{name}", "1"] for name in ("alice", "bob", "carol", "dave")),
        ["aggregator", "simulated/judge", "1"],
        ["all", "5", shown[17].split()[2]],
    ]


def test_simulated_models_are_called_so() -> None:
    assert "Simulated models answer" in ask(CAPITAL).stderr
    assert ask(CAPITAL, "-p", "simulated/alice", "-s", "voting").stderr == ""


def test_those_who_agree_stand_together() -> None:
    shown = lines(ask("How many liters do 5000 milliliters make?", "--strategy", "voting").stdout)
    assert shown[6:10] == ["alice 5 yes", "dave 5 yes", "bob 50", "carol 50"]


def test_json_is_all_there_is_on_stdout() -> None:
    result = ask(CAPITAL, "--json", "--strategy", "voting")
    printed = json.loads(result.stdout)
    assert printed["outputs"] == {"answer": "Edinburgh"}
    assert [proposal["agent"] for proposal in printed["metadata"]["all_proposals"]] == ["alice", "bob", "carol", "dave"]
    assert (printed["metadata"]["strategy"], printed["metadata"]["usage"]["calls"]) == ("voting", 4)


def test_a_question_is_read_as_the_signature_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("task_of_ask.py").write_text(
        "import dspy\nclass Task(dspy.Signature):\n"
        "    names: list[str] = dspy.InputField()\n    answer: int = dspy.OutputField()\n"
    )
    result = ask('["a"]', "--signature", "task_of_ask:Task", "--json")
    assert isinstance(json.loads(result.stdout)["outputs"]["answer"], int)


def test_a_proposer_that_failed_is_shown_with_its_cause(config: Any) -> None:
    with OpenAIServer(answers(a="yes", judge="yes")) as server:
        result = ask("q", "--config", config(server, "a", "b", "judge"), columns=120)
    assert result.exit_code == 0
    [failed] = [line for line in lines(result.stdout) if line.startswith("b ") and line.endswith("failed")]
    assert "LMAuthError: " in failed and "sk-abc" not in result.output
    assert lines(result.stdout)[-1] == "Degraded: 1 of 2 proposals did not come."


def test_no_answer_is_status_1_with_what_was_paid_for(config: Any) -> None:
    with OpenAIServer(answers(a="yes")) as server:
        options = "q", "--config", config(server, "a", "b", "judge", limits={"min_proposals": 2})
        shown, printed = ask(*options, columns=120), ask(*options, "--json")
    assert (shown.exit_code, printed.exit_code) == (1, 1)
    assert shown.stderr.startswith("Error: 1 proposals came back, and at least 2 are needed.")
    assert "a yes" in lines(shown.stdout)
    data = json.loads(printed.stdout)
    assert (data["outputs"], data["error"]["type"]) == (None, "TooFewProposals")
    assert data["metadata"]["all_proposals"][0]["outputs"] == {"answer": "yes"}


def test_what_models_write_cannot_move_the_cursor(config: Any) -> None:
    with OpenAIServer(answers(a="\x1b[2Jgone [red]x[/red]", judge="\x1b[2Jgone [red]x[/red]")) as server:
        shown = ask("q", "--config", config(server, "a", "judge")).stdout
    assert "\x1b" not in shown and "�[2Jgone [red]x[/red]" in shown


def test_options_replace_parts_of_a_config(config: Any) -> None:
    with OpenAIServer(answers(a="yes", judge="yes")) as server:
        path = config(server, "a", "judge")
        result = ask("q", "--config", path, "-p", "simulated/alice", "-s", "selection", "--json")
    metadata = json.loads(result.stdout)["metadata"]
    assert (metadata["strategy"], list(metadata["models"])) == ("selection", ["simulated/alice"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--strategy", "nope"], "there is no strategy 'nope'. Allowed: synthesis, selection, voting, fusion."),
        (["--preset", "nope"], "There is no preset 'nope'. Allowed: balanced, "),
        (["--preset", "budget", "--config", "moa.yaml"], "--config and --preset both say who answers."),
        (["--config", "none.yaml"], "There is no config file none.yaml"),
        (["--config", "bad.yaml"], "bad.yaml, line 2: no valid YAML"),
        (["--aggregator", "openai/gpt-5"], "no proposers. Give --proposer MODEL"),
        (
            ["--proposer", "openai/gpt-5"],
            "The strategy synthesis needs a model that judges, and there is none: give --agg",
        ),
        (["--proposer", "openai/gpt-5", "-s", "voting"], "the environment variable OPENAI_API_KEY is not set"),
        (["--preset", "budget"], "_API_KEY is not set"),
        (["--signature", "question"], "'question' is no signature."),
        (["--signature", "question ->"], "The signature 'question ->' "),
        (["--signature", "question -> answer: nope"], "'question -> answer: nope' cannot be read: Unknown name: nope"),
        (["--signature", "none_such:Task"], "none_such:Task could not be imported (No module named 'none_such')"),
        (["--signature", "json:loads"], "json:loads is no dspy.Signature"),
        (["--signature", "context, question -> answer"], "question would be missing. Put all inputs into a file"),
        (["--signature", "n: int -> answer"], "`n`: Input should be a valid integer"),
    ],
)
def test_bad_input_is_one_message_and_status_2(
    arguments: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text("proposer_models: [a\n")
    result = ask("q", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ") and problem in result.stderr
