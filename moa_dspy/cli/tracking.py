"""`--mlflow`: a command's work as an MLflow run, with the traces of its calls."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from moa_dspy.cli.output import note

if TYPE_CHECKING:
    from moa_dspy.moa import MoA
    from moa_dspy.tracking import Tracked


@contextmanager
def tracking(wanted: bool, moa: MoA, name: str, dataset: Sequence[Any] | None = None) -> Iterator[Tracked | None]:
    """The run that the block is logged into, where that is wanted; says where it is in the end.

    Raises:
        ImportError: If MLflow is not installed.
    """
    if not wanted:
        yield None
        return
    note("Opening MLflow's store: a few seconds, the first time more.")
    import mlflow

    from moa_dspy.tracking import autolog, flush, track  # says what to install, before MLflow does
    from moa_dspy.tracking.store import address, describe, limit, within

    place = address()
    name_of, id_of = os.environ.get("MLFLOW_EXPERIMENT_NAME"), os.environ.get("MLFLOW_EXPERIMENT_ID")
    which: dict[str, Any] = (
        {"experiment_id": id_of} if id_of and not name_of else {"experiment_name": name_of or "moa-dspy"}
    )
    try:
        within(limit(), lambda: mlflow.set_experiment(**which))
    except Exception as error:  # MLflow's own are many; none is worth an answer
        note(f"Nothing is tracked, as MLflow's experiment at {place} could not be opened: {describe(error)}")
        yield None
        return
    autolog()
    try:
        with track(moa, name, dataset) as tracked:
            yield tracked
    finally:
        flush()
    if tracked.run_id is not None:
        note(f"MLflow run {tracked.run_id} in {place}. To look at it: moa-dspy ui")
