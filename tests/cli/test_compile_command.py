import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.command import DEAD, TWO, Process, moa_dspy, printed, words, write, write_metric, write_questions

from moa_dspy import MoA

THREE = (*TWO, "-a", "simulated/judge")
COMPILE = ("compile", "--data", "data.jsonl", "--out", "moa.json")


@pytest.fixture(autouse=True)
def data(here: Path) -> None:
    write_questions("data.jsonl", 30)


def test_it_shows_the_prompts_before_and_after_and_the_gain_on_what_it_held_back() -> None:
    result = moa_dspy(*COMPILE, *THREE, "--timeout", 77)
    assert result.exit_code == 0
    shown = result.stdout.splitlines()
    assert max(len(line) for line in shown if line.startswith(" ")) <= 80
    assert "proposers.bob.program.predict" in shown and any(line.startswith("+ For ") for line in shown)
    at = shown.index("On 9 held-back examples, with 95% intervals:")
    assert [line.split()[0] for line in shown[at + 1 : at + 4]] == ["before", "after", "gain"]
    assert all(re.search(r"[01]\.\d{3}  [+-]?\d\.\d{3} to [+-]?\d\.\d{3}", line) for line in shown[at + 1 : at + 4])
    told = words(result.stderr)
    assert "specialize, recipe quick. 10 examples to learn from, 11 to compare by, 9 held back." in told
    assert "At most 393 LM calls: 363 of the agents" in told and "then 54 on the held-back data." in told
    assert "alice: 0." in told and not Path("moa.checkpoint").exists()
    tuned = MoA.from_file("moa.json")
    assert tuned.limits.timeout == 600  # --timeout was for this command
    assert tuned.use_specialized_prompts and tuned(question="What is the capital of Turkey?").answer


def test_json_is_all_there_is_on_stdout_with_the_names_that_the_help_gives() -> None:
    plain = printed(*COMPILE, *THREE, "--seed", 2)
    shown = words(moa_dspy("compile", "--help", columns=500).stdout)
    assert all(re.search(rf"\b{name}\b", shown.partition("--json prints")[2]) for name in plain)
    assert plain["gain"] == plain["after"] - plain["before"]
    assert plain["interval"][0] <= plain["gain"] <= plain["interval"][1]
    assert plain["measuring"]["calls"] <= plain["budget"]["measuring"] == 54
    assert plain["report"]["calls"] <= plain["budget"]["agents"]
    assert [prompt["name"] for prompt in plain["prompts"]] == [
        *("proposers.alice.program.predict", "proposers.bob.program.predict", "aggregator.program.synthesize")
    ]


@pytest.mark.parametrize("optimizer", ["gepa", "bootstrap", pytest.param("mipro", marks=pytest.mark.slow)])
def test_dspys_optimizers_compile_the_whole_mixture(optimizer: str) -> None:
    plain = printed(*COMPILE, *THREE, "--optimizer", optimizer, "--heldout", 0, "--limit", 12)
    names = ["proposers.shared.predict", "aggregator.program.synthesize"]
    assert [prompt["name"] for prompt in plain["prompts"]] == names
    assert (plain["gain"], plain["measuring"]) == (None, None)
    assert 0 < plain["report"]["calls"] <= plain["budget"]["agents"]


def test_a_dry_run_spends_nothing() -> None:
    result = moa_dspy(*COMPILE, *THREE, "--dry-run")
    assert (result.exit_code, result.stdout) == (0, "") and "At most 393 LM calls" in words(result.stderr)
    assert printed(*COMPILE, *THREE, "--dry-run")["budget"]["agents"] == 363
    assert not Path("moa.json").exists() and not Path("moa.checkpoint").exists()


def test_an_lm_that_dies_leaves_the_finished_stages_for_the_same_command() -> None:
    write("dead.json", {"proposer_models": ["simulated/alice", "simulated/bob"], "aggregator_model": DEAD})
    again = (*COMPILE, "--config", "dead.json", "--reflection-model", "simulated/judge")
    first, second = moa_dspy(*again), moa_dspy(*again)
    for result in (first, second):
        assert (result.exit_code, result.stdout) == (1, "") and not Path("moa.json").exists()
        assert "The same command goes on from moa.checkpoint" in words(result.stderr)
        assert "Spent until then: " in words(result.stderr) and "error.program" not in result.stderr
    assert "alice: 0." in first.stderr and "alice: 0." not in second.stderr  # taken from the checkpoint


def test_an_interrupt_says_how_to_go_on() -> None:
    stop = write_metric("stop", "raise KeyboardInterrupt")
    result = moa_dspy(*COMPILE, *THREE, "--metric", stop, "--optimizer", "bootstrap")
    assert result.exit_code == 130 and "Interrupted. The same command begins anew" in words(result.stderr)


def test_an_interrupt_while_it_measures_loses_nothing() -> None:
    late = write_metric("late", "import os", "if os.path.exists('moa.json'): raise KeyboardInterrupt", "return 1.0")
    result = moa_dspy(*COMPILE, *THREE, "--metric", late, "--optimizer", "bootstrap", "--limit", 12)
    assert result.exit_code == 130 and MoA.from_file("moa.json").agents
    assert "Interrupted. The mixture is saved, but not measured on the held-back data." in words(result.stderr)


def test_an_interrupt_leaves_no_tracebacks_and_the_same_command_goes_on() -> None:
    body = [
        "import time, os",
        "time.sleep(0 if os.path.exists('hurry') else 0.05)",
        "return pred.answer == example.answer",
    ]
    command = (*COMPILE, *THREE, "-m", write_metric("slow", *body), "--optimizer", "gepa")
    process = Process(*command)
    state = Path("moa.checkpoint/mixture/gepa_state.bin")
    while not state.exists() and process.popen.poll() is None:
        time.sleep(0.05)
    process.popen.send_signal(signal.SIGINT)
    status, _, err = process.end()
    assert status == 130 and "Traceback" not in err
    assert "Interrupted. The same command goes on from moa.checkpoint." in words(err)
    Path("hurry").touch()
    assert "resumed" in words(moa_dspy(*command).output) and Path("moa.json").exists()


def test_a_terminal_shows_the_calls_so_far_and_no_bars_of_dspys() -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "moa_dspy", *COMPILE, *THREE, "--limit", "12"]
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = "".join(iter(lambda: _read(ours), ""))
    assert process.wait() == 0 and "compiling (LM calls)" in shown
    assert "it/s" not in shown and "Saved: moa.json" in shown


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # how a terminal says that nobody writes to it any more
        return ""


def test_nothing_better_is_said_and_not_measured_twice() -> None:
    right = write_metric("right", "return 1.0")
    options = (*COMPILE, *THREE, "-m", right, "--optimizer", "gepa", "--limit", 12, "--force")
    assert "Nothing better was found: the prompts are as they were" in words(moa_dspy(*options).stdout)
    plain = printed(*options)
    assert plain["gain"] == 0 and plain["measuring"]["calls"] * 2 == plain["budget"]["measuring"]


def test_a_metric_that_gives_no_score_is_told() -> None:
    none = write_metric("good", "return 'good'")
    result = moa_dspy(*COMPILE, *THREE, "--metric", none, "--optimizer", "gepa")
    assert result.exit_code == 2 and "gave 'good', which is no score" in words(result.stderr)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer", "adam"], "There is no optimizer 'adam'. Choose one of: specialize, gepa, bootstrap, mipro."),
        (["--recipe", "huge"], "There is no recipe 'huge'."),
        (["--out", "moa.pkl"], "moa.pkl is no .json file"),
        (["--out", "nowhere/moa.json"], "nowhere: The folder does not exist."),
        (["--out", "taken.json"], "taken.json exists already. Give another --out, or --force"),
        (["--data", "none.jsonl"], "none.jsonl"),
        (["--limit", "2"], "are too few: with 1 held back"),
        (["--metric", "nope"], "There is no metric 'nope'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_spent(arguments: list[str], message: str) -> None:
    write("taken.json", "{}")
    result = moa_dspy(*COMPILE, *THREE, *arguments)
    assert (result.exit_code, result.stdout) == (2, "") and message in words(result.stderr)
    assert message in words(json.loads(moa_dspy(*COMPILE, *THREE, *arguments, "--json").stdout)["error"]["message"])
