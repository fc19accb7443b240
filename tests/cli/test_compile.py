import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moa_dspy import MoA
from moa_dspy.cli import app
from moa_dspy.simulated.questions import bundled_questions

TWO = ("-p", "simulated/alice", "-p", "simulated/bob", "-a", "simulated/judge")


def compile_(*arguments: object) -> Any:
    everything = ["compile", "--data", "data.jsonl", "--out", "moa.json", *map(str, arguments)]
    return CliRunner().invoke(app, everything, env={"COLUMNS": "80"})


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    write(*(dict(question.items()) for question in bundled_questions()[:30]))
    loggers = [logging.getLogger(name) for name in ("dspy", "gepa")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)  # an interrupt leaves them quiet


def write(*rows: Any) -> None:
    Path("data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def test_it_shows_the_prompts_before_and_after_and_the_gain_on_what_it_held_back() -> None:
    result = compile_(*TWO)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(len(line) for line in lines if line.startswith(" ")) <= 80
    assert "proposers.bob.program.predict" in lines
    assert "  Given the fields `question`, produce the fields `answer`." in lines
    assert any(line.startswith("+ For ") for line in lines) and "…" not in result.stdout
    at = lines.index("On 9 held-back examples, with 95% intervals:")
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["before", "after", "gain"]
    assert all(re.search(r"[01]\.\d{3}  [+-]?\d\.\d{3} to [+-]?\d\.\d{3}", line) for line in lines[at + 1 : at + 4])
    assert re.search(r"Tuned jointly, the same [\d,]+ runs would have taken [\d,]+ calls", words(result.stdout))
    told = words(result.stderr)
    assert "specialize, recipe quick. Examples: 10 to learn from, 11 to compare by, 9 held back." in told
    assert "At most 393 LM calls: 363 of the agents" in told and "then 54 on the held-back data." in told
    assert "alice: 0." in told and not Path("moa.checkpoint").exists()
    tuned = MoA.from_file("moa.json")
    assert tuned.use_specialized_prompts and tuned(question="What is the capital of Turkey?").answer


def test_json_is_all_there_is_on_stdout() -> None:
    plain = json.loads(compile_(*TWO, "--json", "--seed", 2).stdout)
    assert list(plain) == [
        *("optimizer", "recipe", "out", "examples", "budget", "before", "before_interval", "after"),
        *("after_interval", "gain", "interval", "report", "measuring", "prompts"),
    ]
    assert plain["gain"] == plain["after"] - plain["before"]
    assert plain["interval"][0] <= plain["gain"] <= plain["interval"][1]
    assert plain["measuring"]["calls"] == plain["budget"]["measuring"] == 54
    assert plain["report"]["calls"] <= plain["budget"]["agents"]
    assert [prompt["name"] for prompt in plain["prompts"]] == [
        *("proposers.alice.program.predict", "proposers.bob.program.predict", "aggregator.program.synthesize")
    ]


@pytest.mark.parametrize("optimizer", ["gepa", "bootstrap", pytest.param("mipro", marks=pytest.mark.slow)])
def test_dspys_optimizers_compile_the_whole_mixture(optimizer: str) -> None:
    plain = json.loads(compile_(*TWO, "--optimizer", optimizer, "--heldout", 0, "--limit", 12, "--json").stdout)
    names = ["proposers.shared.predict", "aggregator.program.synthesize"]
    assert [prompt["name"] for prompt in plain["prompts"]] == names
    assert (plain["gain"], plain["measuring"]["calls"]) == (None, 0)
    assert 0 < plain["report"]["calls"] <= plain["budget"]["agents"]


def test_a_dry_run_spends_nothing() -> None:
    result = compile_(*TWO, "--dry-run")
    assert (result.exit_code, result.stdout) == (0, "") and "At most 393 LM calls" in words(result.stderr)
    assert not Path("moa.json").exists() and not Path("moa.checkpoint").exists()


def test_an_lm_that_dies_leaves_the_finished_stages_for_the_same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any-key")
    config: dict[str, Any] = {
        "proposer_models": ["simulated/alice", "simulated/bob"],
        "aggregator_model": {"model": "openai/none", "api_base": "http://127.0.0.1:9", "num_retries": 0},
    }
    Path("moa-config.json").write_text(json.dumps(config), encoding="utf-8")
    again = ("--config", "moa-config.json", "--reflection-model", "simulated/judge")
    first, second = compile_(*again), compile_(*again)
    for result in (first, second):
        assert (result.exit_code, result.stdout) == (1, "") and not Path("moa.json").exists()
        told = words(result.stderr)
        assert "The stage aggregator failed" in told and "error.program" not in told
        assert "The same command goes on from moa.checkpoint (finished: alice, bob, proposals)." in told
    assert "alice: 0." in first.stderr and "alice: 0." not in second.stderr  # taken from the checkpoint
    assert {path.name for path in Path("moa.checkpoint").iterdir()} == {
        *("compile.json", "alice.json", "bob.json", "proposals.json")
    }


def test_an_interrupt_says_how_to_go_on() -> None:
    Path("stop_compiling.py").write_text("def stop(example, pred, trace=None):\n    raise KeyboardInterrupt\n")
    result = compile_(*TWO, "--metric", "stop_compiling:stop")
    assert result.exit_code == 130
    assert "Interrupted. Nothing was kept so far: the same command begins anew." in words(result.stderr)
    result = compile_(*TWO, "--metric", "stop_compiling:stop", "--optimizer", "bootstrap")
    assert "bootstrap cannot go on where it stopped" in words(result.stderr)


def test_an_interrupt_while_it_measures_loses_nothing() -> None:
    text = "def late(example, pred, trace=None):\n    if Path('moa.json').exists():\n        raise KeyboardInterrupt\n"
    Path("stop_late.py").write_text(f"from pathlib import Path\n{text}    return 1.0\n")
    result = compile_(*TWO, "--metric", "stop_late:late", "--optimizer", "bootstrap", "--limit", 12)
    assert result.exit_code == 130 and MoA.from_file("moa.json").agents
    assert "Interrupted. moa.json is saved, but not measured on the held-back data." in words(result.stderr)


def test_an_interrupt_leaves_no_tracebacks_and_the_same_command_goes_on() -> None:
    text = "import time\nfrom pathlib import Path\ndef slow(example, pred, trace=None):\n"
    text += "    time.sleep(0 if Path('hurry').exists() else 0.05)\n    return pred.answer == example.answer\n"
    Path("slow_metric.py").write_text(text)
    # Started in the background, a shell's children ignore interrupts.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeding}; from moa_dspy.cli import main; main()"
    command = [sys.executable, "-c", code, "compile", "-d", "data.jsonl", *TWO, "-o", "moa.json"]
    command += ["-m", "slow_metric:slow", "--optimizer", "gepa"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    state = Path("moa.checkpoint/gepa/gepa_state.bin")
    while not state.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told = words(process.communicate()[1])
    assert process.returncode == 130 and "Traceback" not in told
    assert "Interrupted. The same command goes on from moa.checkpoint (begun: gepa)." in told
    Path("hurry").touch()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "resumed, earlier calls not counted" in words(again.stdout) and Path("moa.json").exists()


def test_a_terminal_shows_the_calls_so_far_and_no_bars_of_dspys() -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from moa_dspy.cli import main; main()", "compile", "-d", "data.jsonl", *TWO]
    process = subprocess.Popen([*command, "-o", "moa.json", "--limit", "12"], stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = "".join(iter(lambda: _read(ours), ""))
    assert process.wait() == 0 and re.search(r"compiling: [\d,]+ of at most 235 LM calls", shown)
    assert "it/s" not in shown and "Saved: moa.json" in shown


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # how a terminal says that nobody writes to it any more
        return ""


def test_nothing_better_is_said_and_not_measured_twice() -> None:
    Path("always_right.py").write_text("def one(example, pred, trace=None):\n    return 1.0\n")
    result = compile_(*TWO, "--metric", "always_right:one", "--optimizer", "gepa", "--limit", 12)
    assert "Nothing better was found: the prompts are as they were" in words(result.stdout)
    plain = json.loads(
        compile_(*TWO, "-m", "always_right:one", "--optimizer", "gepa", "--limit", 12, "--force", "--json").stdout
    )
    assert plain["gain"] == 0 and plain["measuring"]["calls"] * 2 == plain["budget"]["measuring"]


def test_a_metric_that_gives_no_score_is_told() -> None:
    Path("no_score.py").write_text("def no_score(example, pred, trace=None):\n    return 'good'\n")
    result = compile_(*TWO, "--metric", "no_score:no_score", "--optimizer", "gepa")
    assert result.exit_code == 1
    assert "The metric no_score gave 'good', which is no score" in words(result.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adam"], "There is no optimizer 'adam'. Choose one of: specialize, gepa, bootstrap, mipro."),
        (["--recipe", "huge"], "There is no recipe 'huge'."),
        (["--out", "moa.pkl"], "moa.pkl is no .json file"),
        (["--out", "nowhere/moa.json"], "nowhere: The folder does not exist."),
        (["--out", "taken.json"], "taken.json exists already. Give another --out, or --force"),
        (["--data", "none.jsonl"], "none.jsonl"),
        (["--limit", "2"], "2 rows are too few: with 1 held back"),
        (["--metric", "nope"], "There is no metric 'nope'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_spent(arguments: list[str], message: str) -> None:
    Path("taken.json").write_text("{}")
    result = compile_(*TWO, *arguments)
    assert (result.exit_code, result.stdout) == (2, "") and message in words(result.stderr)
