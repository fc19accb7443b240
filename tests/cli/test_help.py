import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from moa_dspy.cli import app
from moa_dspy.config import PRESETS
from moa_dspy.strategies import STRATEGIES

COMMANDS = ["demo", "ask", "run", "eval", "diagnose", "compile", "show", "ui"]

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


def help_of(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "100", "TERM": "dumb"})
    assert result.exit_code == 0
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


def test_help_does_not_wait_for_dspy() -> None:
    commands = [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]
    code = _HELP.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and all(f"moa-dspy {name} " in done.stdout for name in COMMANDS)
    assert done.stderr.splitlines() == [f"{' '.join(command)} 0" for command in commands]


def test_every_command_is_listed() -> None:
    text = help_of()
    assert [name for name in COMMANDS if f" {name} " not in text] == []


@pytest.mark.parametrize("command", ["ask", "run"])
def test_the_help_teaches(command: str) -> None:
    text = help_of(command)
    assert f"Examples moa-dspy {command}" in text and " Next: " in text and "Exit status: 0 " in text
    assert [name for name in [*PRESETS, *STRATEGIES] if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("command", ["ask", "run"])
def test_the_examples_fit_a_narrow_terminal(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "80", "TERM": "dumb"}).output
    examples = re.findall(r"^ moa-dspy.*|^     -.*", shown, re.MULTILINE)
    assert len(examples) >= 4 and all(re.match(r" moa-dspy|     -", line) for line in examples)
    assert re.search(r"Examples\s*\n(?: (?:moa-dspy|    -).*\n)+\s*\n", shown)
