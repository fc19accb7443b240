import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from moa_dspy.cli import app
from moa_dspy.config.presets import PRESETS
from moa_dspy.strategies import STRATEGIES

COMMANDS = ["demo", "ask", "run", "eval", "diagnose", "compile", "show", "ui"]

_HELP = """
import sys
from moa_dspy.cli import main
sys.argv = ["moa-dspy", {arguments}]
try:
    main()
finally:
    print(*sorted({{name.partition(".")[0] for name in sys.modules}}), file=sys.stderr)
"""


def help_of(*command: str) -> str:
    result = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "100", "TERM": "dumb"})
    assert result.exit_code == 0
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.output).split())


@pytest.mark.parametrize(
    "arguments", ['"--help"', '"--version"', *(f'"{name}", "--help"' for name in ("ask", "run", "compile", "diagnose"))]
)
def test_help_does_not_wait_for_dspy(arguments: str) -> None:
    code = _HELP.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, bool(done.stdout)) == (0, True)
    assert {"dspy", "litellm", "mlflow", "openai", "numpy"} & set(done.stderr.split()) == set()


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
