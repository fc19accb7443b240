"""A data set as MLflow's input of a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import dspy
import pandas
from mlflow.data.dataset import Dataset
from mlflow.data.pandas_dataset import from_pandas

from moa_dspy.values import as_text, to_json

__all__ = ["as_dataset"]


def as_dataset(data: Any) -> Dataset | None:
    """The data as MLflow knows it: its columns, its size and a digest; the rows themselves are not stored.

    Args:
        data: DSPy examples, dicts, a pandas DataFrame, a data set of MLflow's own, or None.

    Raises:
        TypeError: If it is something else.
        ValueError: If it is empty.
    """
    if data is None or isinstance(data, Dataset):
        return data
    if isinstance(data, Sequence) and all(isinstance(row, (dspy.Example, Mapping)) for row in data):
        data = pandas.DataFrame([dict(row.items()) for row in data])
    if isinstance(data, (str, bytes)) or not isinstance(data, pandas.DataFrame):
        raise TypeError(
            f"A data set is a list of dspy.Examples or dicts, a pandas DataFrame or an mlflow.data Dataset, not "
            f"{_kind(data)}."
        )
    if data.empty:
        raise ValueError("The data set is empty: there is nothing to log. Leave dataset= out, or give its rows.")
    plain = {str(name): _column(list(data[name])) for name in data.columns}
    digest = hashlib.sha256(to_json(plain).encode()).hexdigest()[:8]
    return from_pandas(pandas.DataFrame(plain), name="dataset", digest=digest)


def _column(values: list[Any]) -> list[Any]:
    # MLflow wants columns of one type, and warns about whole numbers, which cannot be missing.
    kinds = {type(value) for value in values}
    return values if kinds in ({bool}, {float}) else [as_text(value) for value in values]


def _kind(data: Any) -> str:
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        odd = next(row for row in data if not isinstance(row, (dspy.Example, Mapping)))
        return f"a {type(data).__name__} with a {type(odd).__name__}"
    return f"a {type(data).__name__}"
