"""The files of saved mixtures, read so that errors name them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dspy.utils.saving import get_dependency_versions

from moa_dspy.saving.saved_format import MIXTURE, SavedMixture

__all__ = ["about", "no_mixture", "read"]


def read(path: str | Path) -> tuple[SavedMixture, dict[str, Any]]:
    """The mixture in a file, and DSPy's whole state.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: Naming the file, if it holds no mixture.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, as save_program=True makes. Load it with dspy.load(path, allow_pickle=True)."
        )
    with about(path):
        try:
            state = json.loads(path.read_bytes())
        except ValueError as error:
            raise ValueError(f"This is no JSON, or not all of it: {error}.") from None
        if not isinstance(state, dict) or MIXTURE not in state:
            raise ValueError(no_mixture(state))
        saved = SavedMixture.read(state[MIXTURE])
        _check_versions(state.get("metadata"))
    return saved, state


def _check_versions(metadata: Any) -> None:
    """Refuse what DSPy, which compares the versions, would fail on."""
    versions = metadata.get("dependency_versions") if isinstance(metadata, dict) else None
    if not isinstance(versions, dict):
        raise ValueError("This is not all of a saved mixture: its metadata is missing.")
    if unknown := sorted(versions.keys() - get_dependency_versions().keys()):
        raise ValueError(
            f"It was saved by another version of DSPy, which told the version of {', '.join(unknown)} too; this one "
            "cannot read that. Install the version that saved it, or save it again with this one."
        )


@contextmanager
def about(path: str | Path) -> Iterator[None]:
    """Errors that name the file."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def no_mixture(state: Any) -> str:
    """What a state that holds no mixture is instead."""
    around = [name.rpartition(".")[0] for name in (state if isinstance(state, dict) else ()) if _is_inside(name)]
    if around:
        return f"This is a program around a mixture ({around[0]}). Build it in code and use its own load()."
    return "This holds no mixture: MoA.save writes one."


def _is_inside(name: str) -> bool:
    return name.endswith(f".{MIXTURE}")
