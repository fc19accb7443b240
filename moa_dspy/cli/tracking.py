"""`--mlflow`: a command's work as an MLflow run, with the traces of its calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from moa_dspy.moa import MoA
    from moa_dspy.tracking.tracked import Tracked

__all__ = ["Mlflow", "tracking"]

Mlflow = Annotated[
    bool,
    typer.Option(
        "--mlflow",
        help="Track it with MLflow: in mlflow.db here, or where MLFLOW_TRACKING_URI says. Then: moa-dspy ui.",
    ),
]

_EXPERIMENT = "moa-dspy"


@contextmanager
def tracking(wanted: bool, moa: MoA, name: str, dataset: Sequence[Any] | None = None) -> Iterator[Tracked | None]:
    """The run that the block is logged into, where that is wanted; says where it is in the end.

    Args:
        wanted: Whether it is.
        moa: The mixture.
        name: Of the run.
        dataset: What the command works on.

    Raises:
        ValueError: If MLflow is not installed.
    """
    if not wanted:
        yield None
        return
    import os

    from moa_dspy.cli.console import note

    note("Opening MLflow's store: a few seconds, the first time more.")
    try:
        from moa_dspy.tracking.autolog import autolog, flush
    except ImportError as error:
        raise ValueError(str(error)) from None
    import mlflow

    from moa_dspy.tracking.guard import Guard, bounded, masked
    from moa_dspy.tracking.track import track

    tracked, guard = None, Guard()
    with bounded():
        guard.run("open the experiment", lambda: mlflow.set_experiment(**_experiment(os.environ)))
    if guard.broken:
        yield None
        return
    autolog()
    try:
        with track(moa, name, dataset) as tracked:
            yield tracked
    finally:
        flush()
        if tracked is not None and tracked.run_id is not None:
            note(f"MLflow run {tracked.run_id} in {masked(mlflow.get_tracking_uri())}. To look at it: moa-dspy ui")


def _experiment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The environment's experiment, else ours: opened here, a deleted one costs one warning alone."""
    name, number = environment.get("MLFLOW_EXPERIMENT_NAME"), environment.get("MLFLOW_EXPERIMENT_ID")
    return {"experiment_id": number} if number and not name else {"experiment_name": name or _EXPERIMENT}
