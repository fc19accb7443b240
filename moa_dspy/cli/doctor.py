"""`moa-dspy doctor`: whether the models of a mixture can be asked, and what to do where they cannot."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import FAILED, console, harmless, print_json, quietly, table

_COLUMNS = ("agents", "key", "answers", "json", "stream", "name", "price", "window")
_WIDE = 90
_MARKS = {"ok": ("ok", "green"), "note": ("?", "yellow"), "fix": ("FIX", "red")}


def doctor(
    who: options.Who,
    timeout: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="For all of it.")] = 60.0,
    as_json: options.Json = False,
) -> None:
    """Ask each model of a mixture, the aggregator too, and say what must be done before it works.

    Three short calls a model, all models at once: its key, its name, an answer, JSON, streaming, price and context
    window.

    [bold]Examples[/bold]
    moa-dspy doctor --config moa.yaml
    moa-dspy doctor -p openai/gpt-5.4-mini -p ollama_chat/llama3.2 -s voting

    [bold]--json[/bold] prints ok and models, each with its agents and its checks (name, state, text).

    Exit status: 0 nothing to do, 1 something must be done, 2 bad input.
    """
    from moa_dspy.cli.examination import examine

    moa = who.mixture()
    with quietly():
        found = examine(moa, timeout)
    to_do: dict[str, dict[tuple[str, str], list[str]]] = {"fix": {}, "note": {}}
    rows = []
    here = console()
    shown = _COLUMNS if here.width >= _WIDE else _COLUMNS[1:5]  # what must be done stands below
    for model, agents, checks in found:
        marks = {check.name: harmless(*_MARKS[check.state]) for check in checks}
        marks["agents"] = harmless(", ".join(agents))
        rows.append([model, *(marks.get(name, "-") for name in shown)])
        for check in checks:
            if check.state != "ok":
                to_do[check.state].setdefault((check.name, check.text), []).append(model)
    if as_json:
        models = [{"model": m, "agents": a, "checks": [asdict(check) for check in checks]} for m, a, checks in found]
        print_json({"ok": not to_do["fix"], "models": models})
    else:
        here.print(table(["model", *shown], rows))
        for heading, told in zip(("To do", "Worth knowing"), to_do.values(), strict=True):
            here.print(harmless(f"\n{heading}" if told else "", "bold"), end="\n" if told else "")
            for (name, text), those in told.items():
                here.print(harmless(f"- {', '.join(those)}: {name}: {text}"), soft_wrap=not here.is_terminal)
    if to_do["fix"]:
        raise typer.Exit(FAILED)
