"""Each command: what it prints, `--json`, `--help`, and one clear message for each mistake."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.rendering import render
from typer.testing import CliRunner, Result

from moa_dspy import MoA, Voting
from moa_dspy.cli import app
from moa_dspy.simulated.questions import bundled_questions

COMMANDS = ["demo", "ask", "run", "eval", "diagnose", "compile", "show", "ui"]
STRATEGIES = ["synthesis", "selection", "voting", "fusion"]
CAPITAL = "What is the capital of Scotland?"
TWO = ("-p", "simulated/alice", "-p", "simulated/bob")
DEAD = {"model": "openai/dead", "api_base": "http://127.0.0.1:9", "num_retries": 0}
HEAVY = """
import sys
from moa_dspy.cli import main
for arguments in {commands}:
    sys.argv = ["moa-dspy", *arguments]
    try:
        main()
    except SystemExit as done:
        heavy = {{"dspy", "litellm", "mlflow", "openai", "numpy"}} & {{name.partition(".")[0] for name in sys.modules}}
        print(*arguments, done.code, *sorted(heavy), file=sys.stderr)
"""


def moa_dspy(*arguments: object, columns: int = 80) -> Result:
    env = {"COLUMNS": str(columns), "TERM": "dumb"}
    return CliRunner().invoke(app, [*map(str, arguments)], env=env, prog_name="moa-dspy")


def printed(*arguments: object) -> Any:
    """What stands on stdout with --json: nothing but JSON, without NaN."""
    result = moa_dspy(*arguments, "--json")
    assert result.exit_code in (0, 1), result.output

    def refuse(name: str) -> Any:
        raise AssertionError(name)

    return json.loads(result.stdout, parse_constant=refuse)


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Questions in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "any-key")
    write("data.jsonl", *(dict(question.items()) for question in bundled_questions()[:30]))
    write("few.jsonl", *(dict(question.items()) for question in bundled_questions()[:6]))
    return tmp_path


def write(name: str, *rows: Any) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def metric(name: str, body: str) -> str:
    """A metric of the user's own, in the current folder."""
    Path(f"{name}_metric.py").write_text(f"def {name}(example, pred, trace=None):\n    {body}\n")
    return f"{name}_metric:{name}"


# Help.


def test_help_does_not_wait_for_dspy() -> None:
    commands = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    code = HEAVY.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.splitlines() == [f"{' '.join(command)} 0" for command in commands]
    assert all(f"moa-dspy {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_teaches(command: str) -> None:
    text = words(re.sub("[│╭╮╰╯─]", " ", moa_dspy(command, "--help", columns=100).output))
    assert f"moa-dspy {command} " in text and len(text) > 300
    assert command in ("demo", "show", "ui") or all(name in text for name in STRATEGIES)


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).parent / "moa-dspy"
    done = subprocess.run([command, "show", "none.json"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "") and "none.json" in done.stderr


# demo, ask.


def test_demo_shows_every_system_as_simulated_and_what_mixing_is_for() -> None:
    result = moa_dspy("demo", "--plot", "plot.html")
    assert result.exit_code == 0 and max(map(len, result.stdout.splitlines())) <= 80
    assert all(name in result.stdout for name in ["alice", "judge", "plain vote", *STRATEGIES, "oracle"])
    assert "SIMULATED" in result.stdout and "SIMULATED" in Path("plot.html").read_text(encoding="utf-8")
    data = printed("demo")
    scores = {row["name"]: row["score"] for row in data["rows"]}
    alone = max(row["score"] for row in data["rows"] if row["kind"] in ("proposer", "aggregator"))
    assert all(scores[name] > alone for name in STRATEGIES) and {row["cost_usd"] for row in data["rows"]} == {None}
    assert (data["simulated"], data["questions"]) == (True, 120)


def test_ask_shows_the_answer_who_said_it_and_what_it_took() -> None:
    result = moa_dspy("ask", CAPITAL)
    shown = words(result.stdout)
    assert result.exit_code == 0 and shown.index("Edinburgh") < shown.index("alice")
    assert all(name in shown for name in ("alice", "bob", "carol", "dave", "aggregator", "simulated/judge"))
    assert "agreement 100%" in shown and "Simulated models answer" in result.stderr
    assert "5" in shown and "tokens" in shown and "cost" in shown and "seconds" in shown


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ask_as_json(strategy: Any) -> None:
    data = printed("ask", CAPITAL, "--strategy", strategy)
    metadata = data["metadata"]
    assert (data["outputs"], metadata["strategy"]) == ({"answer": "Edinburgh"}, strategy)
    assert [p["agent"] for p in metadata["all_proposals"]] == ["alice", "bob", "carol", "dave"]


def test_a_question_is_read_as_the_signature_says() -> None:
    Path("task_of_ask.py").write_text(
        "import dspy\nclass Task(dspy.Signature):\n"
        "    names: list[str] = dspy.InputField()\n    answer: int = dspy.OutputField()\n"
    )
    assert isinstance(printed("ask", '["a"]', "--signature", "task_of_ask:Task")["outputs"]["answer"], int)
    assert isinstance(printed("ask", "?", "--signature", "question -> answer: bool")["outputs"]["answer"], bool)


def told(request: ChatRequest) -> Reply:
    if request.model == "bad":
        return Reply("the key sk-abcdefghijklmnopqrst is no good", status=401)
    return Reply(render("chat", {"reasoning": "so", "answer": "\x1b[2Jgone [red]x[/red]"}))


def test_ask_shows_failures_and_no_secret_and_lets_no_model_move_the_cursor() -> None:
    with OpenAIServer(told) as server:
        models = [{"model": f"openai/{name}", "api_base": server.url, "num_retries": 0} for name in ("a", "bad")]
        write("moa.json", {"proposer_models": models, "aggregation_strategy": "voting"})
        fine = moa_dspy("ask", "q", "--config", "moa.json", columns=120)
        write("moa.json", {"proposer_models": models, "aggregation_strategy": "voting", "limits": {"min_proposals": 2}})
        none = printed("ask", "q", "--config", "moa.json")
    assert fine.exit_code == 0 and "\x1b" not in fine.stdout and "[2Jgone [red]x[/red]" in fine.stdout
    assert "LMAuthError" in fine.stdout and "sk-abc" not in fine.output and "Degraded" in fine.stdout
    assert none["outputs"] is None and none["error"]["type"] == "TooFewProposals"
    assert len(none["metadata"]["all_proposals"]) == 1


def test_run_answers_a_file_and_says_what_it_took() -> None:
    result = moa_dspy("run", "few.jsonl", "--out", "answers.jsonl")
    assert result.exit_code == 0 and "answered 6" in words(result.stdout) and "answers.jsonl" in result.stdout
    data = printed("run", "few.jsonl", "--out", "answers.jsonl")
    assert (data["skipped"], data["answered"], data["usage"]["calls"]) == (6, 0, 0)


# eval, diagnose.


def test_eval_compares_models_and_mixtures_and_plots() -> None:
    result = moa_dspy("eval", "few.jsonl", "--by", "kind", "--plot", "plot.png", "--record", "record.jsonl")
    lines = result.stdout.splitlines()
    assert result.exit_code == 0 and max(map(len, lines)) <= 80 and "SIMULATED" in lines[0]
    assert all(name in result.stdout for name in ["alice", "plain vote", *STRATEGIES, "oracle", "geography"])
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")
    assert len([json.loads(line) for line in Path("record.jsonl").read_text(encoding="utf-8").splitlines()]) == 6


def test_eval_as_json_with_a_metric_of_ones_own() -> None:
    short = metric("short", "return 1 / len(pred.answer)")
    write("open.jsonl", {"question": "What is 2 + 3?"})
    data = printed("eval", "open.jsonl", *TWO, "-s", "voting", "--metric", short)
    assert [(row["name"], row["score"]) for row in data["rows"]] == [
        (name, 1.0) for name in ("alice", "bob", "plain vote", "voting", "oracle")
    ]


@pytest.mark.parametrize("command", [("eval", "data.jsonl"), ("diagnose", "-d", "data.jsonl", "--no-self-moa")])
@pytest.mark.parametrize(("end", "status"), [("raise KeyboardInterrupt", 130), ("return None", 1)])
def test_what_was_answered_is_shown_when_it_is_cut_short(command: Any, end: str, status: int) -> None:
    name = metric(f"late{status}", f"if example.kind == 'geography': {end}\n    return True")
    result = moa_dspy(*command, "--metric", name, "--concurrency", 1, *TWO, "-s", "voting")
    assert result.exit_code == status and "5 of 30 questions" in words(result.output)


def test_eval_counts_a_dead_model_as_wrong_and_diagnose_stops_at_it() -> None:
    write("moa.json", {"proposer_models": ["simulated/bob", DEAD], "aggregation_strategy": "voting"})
    result = moa_dspy("eval", "few.jsonl", "--config", "moa.json", "-s", "voting")
    assert result.exit_code == 0 and re.search("dead.*6 of 6", words(result.stdout))
    result = moa_dspy("diagnose", "-d", "few.jsonl", "--config", "moa.json", "-s", "voting", "--no-self-moa")
    assert (result.exit_code, result.stdout) == (1, "") and re.search("dead.*6 of 6", words(result.stderr))
    write("moa.json", {"proposer_models": [DEAD], "aggregation_strategy": "voting"})
    result = moa_dspy("eval", "few.jsonl", "--config", "moa.json", "-s", "voting")
    assert (result.exit_code, result.stdout) == (1, "") and "first question" in result.stderr


def test_diagnose_says_what_to_use_and_what_it_will_cost() -> None:
    result = moa_dspy("diagnose", "--data", "few.jsonl", *TWO, "-a", "simulated/judge", "--plot", "plot.html")
    assert result.exit_code == 0 and max(map(len, result.stdout.splitlines())) <= 80
    assert Path("plot.html").exists() and re.search(r"At most \d+ LM calls", words(result.stderr))
    dry = moa_dspy("diagnose", "-d", "few.jsonl", *TWO, "-s", "voting", "--dry-run")
    assert (dry.exit_code, dry.stdout) == (0, "") and "At most 24 LM calls" in words(dry.stderr)
    data = printed("diagnose", "-d", "few.jsonl", *TWO, "-s", "voting", "--no-self-moa")
    assert data["recommendation"]["verdict"] in ("mix", "single", "unclear")


# compile, show, ui.


def test_compile_shows_the_prompts_and_the_gain_and_saves() -> None:
    dry = moa_dspy("compile", "-d", "data.jsonl", *TWO, "-a", "simulated/judge", "-o", "moa.json", "--dry-run")
    assert (dry.exit_code, dry.stdout, Path("moa.json").exists()) == (0, "", False)
    assert re.search(r"At most \d+ LM calls", words(dry.stderr))
    done = moa_dspy("compile", "-d", "data.jsonl", *TWO, "-a", "simulated/judge", "-o", "moa.json", "--recipe", "quick")
    assert done.exit_code == 0 and max(len(line) for line in done.stdout.splitlines() if line.startswith(" ")) <= 80
    assert all(text in done.stdout for text in ("before", "after", "gain", "held-back"))
    assert MoA.from_file("moa.json")(question="What is the capital of Turkey?").answer
    shown = printed("show", "moa.json")
    assert [agent["model"] for agent in shown["agents"]] == [*TWO[1::2], "simulated/judge"]


@pytest.mark.parametrize("optimizer", ["specialize", "gepa", "bootstrap"])
def test_compile_as_json_stays_within_its_budget(optimizer: str) -> None:
    options = (*TWO, "-a", "simulated/judge", "-o", "moa.json", "--optimizer", optimizer, "--limit", 18)
    data = printed("compile", "-d", "data.jsonl", *options, "--recipe", "quick")
    assert data["gain"] == pytest.approx(data["after"] - data["before"]) and data["prompts"]
    assert 0 < data["report"]["calls"] <= data["budget"]["agents"]


def test_a_compile_that_dies_or_is_stopped_goes_on_with_the_same_command() -> None:
    write("dead.json", {"proposer_models": ["simulated/alice", "simulated/bob"], "aggregator_model": DEAD})
    options = ("--config", "dead.json", "--reflection-model", "simulated/judge", "-o", "moa.json", "--recipe", "quick")
    first, second = (moa_dspy("compile", "-d", "data.jsonl", *options) for _ in range(2))
    for result in (first, second):
        assert (result.exit_code, result.stdout, Path("moa.json").exists()) == (1, "", False)
        assert "goes on from moa.checkpoint" in words(result.stderr)
    assert "alice: 0." in first.stderr and "alice: 0." not in second.stderr  # taken from the checkpoint
    stop = metric("stop", "raise KeyboardInterrupt")
    result = moa_dspy("compile", "-d", "data.jsonl", *TWO, "-o", "other.json", "-s", "voting", "--metric", stop)
    assert result.exit_code == 130 and "Traceback" not in result.output


def test_show_tells_what_is_in_a_file() -> None:
    moa: Any = MoA("question -> n: int", ["simulated/alice", "simulated/bob"], strategy=Voting(weights={"alice": 2.5}))
    part = moa.predictors()[0]
    part.signature = part.signature.with_instructions("Count twice.")
    part.demos = [{"question": "How many?", "n": 3}]
    moa.save("moa.json")
    shown = moa_dspy("show", "moa.json").stdout
    assert (
        all(text in shown for text in ("voting", "simulated/alice", "2.5", "Count twice.")) and "How many?" not in shown
    )
    assert "How many?" in moa_dspy("show", "moa.json", "--demos").stdout
    assert [agent["name"] for agent in printed("show", "moa.json")["agents"]][:2] == ["alice", "bob"]


def test_ui_opens_what_it_can() -> None:
    done = moa_dspy("ui", "http://127.0.0.1:5001")
    assert done.exit_code == 0 and "http://127.0.0.1:5001" in done.stderr
    for store in ("sqlite:///none.db", "nonsense://x"):
        assert moa_dspy("ui", store).exit_code == 2


# Mistakes: one message, status 2, before anything is asked.

GOOD = '{"question": "a", "answer": "b"}'


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ("ask q --strategy nope", "'nope'.*synthesis, selection, voting, fusion"),
        ("ask q --preset nope", "'nope'.*balanced"),
        ("ask q --preset budget --config moa.yaml", "--config.*--preset"),
        ("ask q --config none.yaml", "none.yaml"),
        ("ask q --config bad.yaml", "bad.yaml.*YAML"),
        ("ask q --aggregator openai/gpt-5", "--proposer"),
        ("ask q --proposer openai/gpt-5", "--agg"),
        ("ask q --proposer gemini/any -s voting", "GEMINI_API_KEY"),
        ("ask q --signature question", "'question'"),
        ("ask q --signature none_such:Task", "none_such"),
        ("ask q --signature json:loads", "json:loads"),
        ("ask q --signature n:int->answer", "n"),
        ("run none.jsonl --out a.jsonl", "none.jsonl"),
        ("run bad.jsonl --out a.jsonl", "Line 2"),
        ("run few.jsonl --out few.jsonl", "few.jsonl"),
        ("run few.jsonl --out none/a.jsonl", "none"),
        ("run few.jsonl --out bad.jsonl", "bad.jsonl"),
        ("eval bad.jsonl", "Line 2"),
        ("eval open.jsonl", "answer"),
        ("eval few.jsonl --metric nope", "'nope'"),
        ("eval few.jsonl --by nope", "'nope'"),
        ("eval few.jsonl --plot nowhere/p.png", "nowhere"),
        ("diagnose -d few.jsonl --strategy nope", "'nope'"),
        ("diagnose -d few.jsonl --config nowhere.yaml", "nowhere.yaml"),
        ("compile -d data.jsonl -o moa.json --optimizer adam", "'adam'.*specialize, gepa, bootstrap, mipro"),
        ("compile -d data.jsonl -o moa.json --recipe huge", "'huge'"),
        ("compile -d data.jsonl -o moa.pkl", "moa.pkl"),
        ("compile -d data.jsonl -o taken.json", "taken.json.*--force"),
        ("compile -d data.jsonl -o moa.json --limit 2", "2 examples"),
        ("show bad.yaml", "bad.yaml"),
        ("show none.json", "none.json"),
    ],
)
def test_bad_input_is_one_message_and_status_2(arguments: str, problem: str) -> None:
    Path("bad.yaml").write_text("proposer_models: [a\n")
    Path("bad.jsonl").write_text(f'{GOOD}\n{{"question": \n')
    Path("taken.json").write_text("{}")
    write("open.jsonl", {"question": "a"})
    result = moa_dspy(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert re.search(f"Error: .*{problem}", words(result.stderr)), result.stderr
