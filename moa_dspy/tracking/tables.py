"""The proposals of all calls as one table, bounded in size."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import dspy

from moa_dspy.results import MoAMetadata
from moa_dspy.secrets import mask, secret_values
from moa_dspy.values import as_text

__all__ = ["ROWS", "ProposalTable"]

ROWS = 5000
"""The most rows that are kept."""

_LONGEST = 2000


class ProposalTable:
    """One row per proposal, or per agent that failed.

    Columns: `call` (from 1), `inputs.*`, `agent`, `model`, `layer`, `sample`, `outputs.*`, `seconds`, `chosen` (None
    where the strategy wrote an answer of its own), `final.*` (what came of the call) and `error`.

    Args:
        task: The task's signature.
        limit: The most rows that are kept; further ones are counted only.
    """

    def __init__(self, task: type[dspy.Signature], limit: int = ROWS) -> None:
        self.task = task
        self.limit = limit
        self.seen = 0
        self._calls = 0
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def add(self, inputs: Mapping[str, Any], account: MoAMetadata, answer: Mapping[str, Any] | None) -> None:
        """Enter a call of the mixture."""
        with self._lock:
            self._calls += 1
            self.seen += len(account.all_proposals) + len(account.failures)
            if len(self._rows) >= self.limit:
                return
            call = {"call": self._calls, **self._cells("inputs", self.task.input_fields, inputs)}
            came = self._cells("final", self.task.output_fields, answer or {})
            for proposal in account.all_proposals:
                chosen = None if account.selected is None else proposal.id == account.selected
                about = proposal.model_dump(include={"agent", "model", "layer", "sample", "seconds"})
                said = self._cells("outputs", self.task.output_fields, proposal.outputs)
                self._rows.append({**call, **about, **said, **came, "chosen": chosen, "error": None})
            for failure in account.failures:
                about = failure.model_dump(include={"agent", "model", "seconds"})
                self._rows.append({**call, **about, **came, "error": f"{failure.error}: {failure.message}"})
            del self._rows[self.limit :]

    def columns(self, *lms: dspy.BaseLM | None) -> dict[str, list[Any]]:
        """Column -> values; empty if there are no rows.

        Args:
            *lms: Whose secrets are masked.
        """
        with self._lock:
            rows = list(self._rows)
        inputs = [f"inputs.{name}" for name in self.task.input_fields]
        outputs, final = ([f"{part}.{name}" for name in self.task.output_fields] for part in ("outputs", "final"))
        about = ["agent", "model", "layer", "sample"]
        names = ["call", *inputs, *about, *outputs, "chosen", *final, "seconds", "error"] if rows else []
        secrets = secret_values(*lms)
        return {name: [_masked(row.get(name), secrets) for row in rows] for name in names}

    @property
    def is_cut(self) -> bool:
        """Whether there were more rows than are kept."""
        return self.seen > len(self._rows)

    def _cells(self, part: str, fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
        return {f"{part}.{name}": _cell(values[name]) for name in fields if name in values}


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = as_text(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [... {len(text) - _LONGEST} characters more]"


def _masked(value: Any, secrets: list[str]) -> Any:
    return mask(value, secrets) if isinstance(value, str) else value
