"""`moa-dspy demo`: what a mixture does, shown on simulated models."""

from __future__ import annotations

import typer

from moa_dspy.cli import options
from moa_dspy.cli.evaluate import compare, save_plot, show_comparison
from moa_dspy.cli.output import console, print_json
from moa_dspy.cli.tracking import tracking

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
    plot: options.Plot = None,
    mlflow: options.Mlflow = False,
    as_json: options.Json = False,
) -> None:
    """See what a mixture does: models alone, the vote and four strategies compared.

    The models are simulated: no key, no network, no cost, and the same answers every time. The numbers show how
    mixing works and say nothing about real models.

    [bold]--json[/bold] prints what moa-dspy eval prints.

    [bold]Next[/bold]: your own question with [bold]moa-dspy ask[/bold], your own models with [bold]moa-dspy
    init[/bold], your own data with [bold]moa-dspy eval[/bold].

    Exit status: 0 done, 130 interrupted.
    """
    from moa_dspy.evaluation import check_plot, evaluate
    from moa_dspy.moa import MoA
    from moa_dspy.simulated.questions import bundled_questions

    if plot is not None:
        check_plot(plot)
    moa, questions = MoA(options.DEFAULT_TASK, options.PANEL, options.JUDGE), bundled_questions()
    with tracking(mlflow, moa, "demo", questions) as tracked:
        # One question at a time: simulated models do not wait, so threads would only lengthen the times.
        comparison, status = compare(
            "simulating", lambda update: evaluate(moa, questions, concurrency=1, on_progress=update)
        )
        if tracked is not None:
            tracked.log_comparison(comparison)
    save_plot(comparison, plot)
    if as_json:
        print_json(comparison.to_dict())
    else:
        here = console()
        here.print("120 bundled questions of six kinds: no key, no network, no cost.")
        show_comparison(here, comparison)
        here.print("\nWhy mixing helps: each model is good at other questions. Here by kind:\n")
        here.print(comparison.split_table("kind"))
        here.print(f"{_LOOK if mlflow else ''}{_NEXT}", markup=False, soft_wrap=True)
    raise typer.Exit(status)
