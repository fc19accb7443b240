"""`moa-dspy demo`: what a mixture does, shown on simulated models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from moa_dspy.cli.options import mixture
from moa_dspy.cli.tracking import Mlflow, tracking

__all__ = ["HELP", "demo"]

HELP = """See what a mixture does: models alone, the vote and four strategies compared.

The models are simulated: no key, no network, no cost, and the same answers
every time. The numbers show how mixing works and say nothing about real models.

[bold]Next[/bold]: your own question with [bold]moa-dspy ask[/bold], your own models and data with
[bold]moa-dspy eval[/bold].

Exit status: 0 done, 130 interrupted.
"""

_INTRO = "120 bundled questions of six kinds: no key, no network, no cost."
_WHY = "Why mixing helps: each model is good at other questions. Here by kind:"
_NEXT = """\
Next
  one question       moa-dspy ask "What is the capital of Scotland?"
  real models        moa-dspy ask "Why is the sky blue?" --preset balanced
                     with OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY
  this table, yours  moa-dspy eval DATA.jsonl --config moa.yaml"""
_LOOK = """\
In MLflow: moa-dspy ui, experiment moa-dspy
  Training runs      'demo' holds a run per system: mark some, press Compare
  Traces             one per question: who was asked what, and its tokens
  Prompts            'demo.*': what each role is told"""


def demo(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, and nothing else, on stdout.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot quality against cost into FILE.html or FILE.png.")
    ] = None,
    mlflow: Mlflow = False,
) -> None:
    """Compare simulated models, alone and mixed."""
    from rich.console import Console

    from moa_dspy.cli.comparing import check_files, compare, print_json, save
    from moa_dspy.cli.console import refusing
    from moa_dspy.cli.tables import show_comparison, show_split
    from moa_dspy.simulated.questions import bundled_questions

    if mlflow:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network, prices included
    with refusing():
        check_files(plot)
        moa, questions = mixture("question -> answer", None, None, None, None, None), bundled_questions()
        with tracking(mlflow, moa, "demo", questions) as tracked:
            # One question at a time: simulated models do not wait, so threads would only lengthen the times.
            comparison, status = compare("simulating", moa, questions, "exact", concurrency=1)
            if tracked is not None:
                tracked.log_comparison(comparison)
    if as_json:
        print_json(comparison)
    else:
        console = Console(highlight=False)
        console.print(_INTRO)
        show_comparison(console, comparison)
        console.print(f"\n{_WHY}")
        show_split(console, comparison, "kind")
        if mlflow:
            console.print(f"\n{_LOOK}", markup=False, soft_wrap=True)
        console.print(f"\n{_NEXT}", markup=False, soft_wrap=True)
    save(comparison, plot)
    raise typer.Exit(status)
