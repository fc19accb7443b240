"""A diagnosis as the command line runs it: with a bar, and with what is left when it is cut short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy
import typer
from rich.console import Console

from moa_dspy.cli.comparing import progress
from moa_dspy.cli.console import BAD_INPUT, FAILED, INTERRUPTED, complain, quiet_stdout
from moa_dspy.cli.tables import show_comparison
from moa_dspy.errors import MoAError
from moa_dspy.evaluation import EvaluationInterrupted
from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import Metric, MetricError
from moa_dspy.moa import MoA
from moa_dspy.optimizers import Diagnosis, ProposersUnreachable, diagnose

__all__ = ["run"]


def run(moa: MoA, dataset: Sequence[dspy.Example], metric: str | Metric, **settings: Any) -> Diagnosis:
    """Diagnose with a bar on stderr.

    Raises:
        typer.Exit: If it was cut short; what was compared by then is on stderr.
    """
    try:
        with quiet_stdout(), progress("asking") as on_progress:
            return diagnose(moa, dataset, metric, on_progress=on_progress, **settings)
    except EvaluationInterrupted as stop:
        _show(stop.comparison)
        complain("Interrupted. The same command again takes from DSPy's cache what was answered.")
        raise typer.Exit(INTERRUPTED) from None
    except ProposersUnreachable as error:
        _show(error.comparison)
        complain(f"{error.reason} Once they answer again, the same command takes from DSPy's cache what was answered.")
        raise typer.Exit(FAILED) from None
    except MetricError as error:
        _show(error.comparison)
        complain(str(error))
        raise typer.Exit(FAILED if error.comparison is not None else BAD_INPUT) from None
    except MoAError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None
    except ValueError as error:
        complain(str(error))
        raise typer.Exit(BAD_INPUT) from None


def _show(comparison: Comparison | None) -> None:
    if comparison is not None and comparison.records and comparison.systems:
        show_comparison(Console(stderr=True), comparison)
