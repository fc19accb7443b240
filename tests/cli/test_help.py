import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import moa_dspy, words

import moa_dspy as package
from moa_dspy.config import PRESETS
from moa_dspy.strategies import STRATEGIES

COMMANDS = [
    "demo",
    "ask",
    "chat",
    "serve",
    "mcp",
    "run",
    "eval",
    "diagnose",
    "compile",
    "show",
    "ui",
    "init",
    "presets",
    "data",
]
ASKING = ["ask", "run", "eval", "diagnose", "compile"]

_HELP = """
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


def help_of(*command: str, columns: int = 100) -> str:
    result = moa_dspy(*command, "--help", columns=columns)
    assert result.exit_code == 0
    return words(re.sub("[│╭╮╰╯─]", " ", result.output))


def test_help_does_not_wait_for_dspy() -> None:
    commands = [["--help"], ["-h"], ["--version"], ["-V"], *([name, "-h"] for name in COMMANDS)]
    done = subprocess.run(
        [sys.executable, "-c", _HELP.format(commands=commands)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and all(f"moa-dspy {name} " in done.stdout for name in COMMANDS)
    assert done.stderr.splitlines() == [f"{' '.join(command)} 0" for command in commands]


def test_the_version_is_there_in_each_way() -> None:
    done = subprocess.run([sys.executable, "-m", "moa_dspy", "-V"], capture_output=True, text=True)
    assert done.stdout == moa_dspy("--version").stdout == f"moa-dspy {package.__version__}\n"


def test_the_command_is_installed() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "moa-dspy", "show", "none.json"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "") and "none.json" in done.stderr


def test_every_command_is_listed() -> None:
    text = help_of()
    assert [name for name in COMMANDS if f" {name} " not in text] == []
    assert "--install-completion" in text


@pytest.mark.parametrize("command", ASKING)
def test_the_help_teaches(command: str) -> None:
    text = help_of(command)
    assert f"Examples moa-dspy {command}" in text and " Next: " in text and "Exit status: 0 " in text
    assert "--json prints " in text
    assert [name for name in [*PRESETS, *STRATEGIES] if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("command", [*ASKING, "chat", "serve", "mcp"])
def test_whatever_asks_models_can_be_bounded(command: str) -> None:
    text = help_of(command)
    assert all(option in text for option in ("--timeout ", "--max-cost-usd ", "--max-calls ")) and "…" not in text


@pytest.mark.parametrize("command", ASKING)
def test_the_examples_fit_a_narrow_terminal(command: str) -> None:
    shown = moa_dspy(command, "--help").output
    examples = re.search(r"Examples\s*\n((?: (?:moa-dspy|    [-&]).*\n)+)\s*\n", shown)
    assert examples is not None and len(examples[1].splitlines()) >= 4
