"""A logged mixture as MLflow runs it: rows in, answers and their accounts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy
import pandas as pd
from mlflow.pyfunc.model import PythonModel

from moa_dspy.batch.questions import missing_inputs, typed_input
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.errors import MoAError
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.results import MoAMetadata
from moa_dspy.secrets import redact
from moa_dspy.tracking.columns import ACCOUNT, CONCURRENCY, OUTPUTS, Columns

__all__ = ["PROGRAM", "MixtureProgram"]

PROGRAM = "program"


class MixtureProgram(PythonModel):
    """Answers the rows of a table, side by side.

    Each row gives two objects, in its place. `outputs` holds the task's outputs; all are null if the row has no
    answer. `account` says why in `error` (null if there is an answer), and how it came about: `agreement`,
    `degraded`, `cost_usd` (of `unpriced_calls` it knows nothing), `seconds`, and `metadata`, the whole
    `MoAMetadata` as JSON. A row that fails, or is malformed, does not touch the others.
    """

    def load_context(self, context: Any) -> None:
        # Who runs a model runs the code in it: the addresses in it are trusted as much.
        self.moa = MoA.from_file(context.artifacts[PROGRAM], allow_unsafe_lm_state=True)
        self.columns = Columns(self.moa.signature)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """The answers, one row for each.

        Args:
            context: MLflow's, not used.
            model_input: The task's inputs.
            params: `concurrency`: rows under way at once; each asks all its proposers at once.

        Returns:
            A DataFrame with the columns `outputs` and `account`, and the index of the input.

        Raises:
            ValueError: Before anything is asked, if a provider's key is missing in the environment.
        """
        concurrency = int((params or {}).get(CONCURRENCY.name, CONCURRENCY.default))
        require_positive(concurrency=concurrency)
        rows: Sequence[Mapping[str, Any]] = model_input.to_dict("records")
        for agent in self.moa.agents if rows else []:
            agent.check_key()
        numbered = run_side_by_side(lambda item: (item[0], self._answer(item[1])), list(enumerate(rows)), concurrency)
        answered = [answer for _, answer in sorted(numbered, key=lambda item: item[0])]
        return pd.DataFrame(answered, index=model_input.index, columns=[OUTPUTS, ACCOUNT])

    def _answer(self, row: Mapping[str, Any]) -> dict[str, Any]:
        account: MoAMetadata | None = None
        outputs, error = None, None
        try:
            inputs = self._inputs(row)
            # Nobody reads the trace of a batch, and it would keep all prompts in memory.
            with dspy.context(trace=None):
                prediction = self.moa(**inputs)
            account = prediction.metadata
            outputs = self.columns.outputs(dict(prediction.items()))
        except Exception as failed:
            account = failed.metadata if isinstance(failed, MoAError) else account
            error = f"{type(failed).__name__}: {redact(str(failed), *(agent.lm for agent in self.moa.agents))}"
        return {OUTPUTS: outputs or self.columns.outputs(None), ACCOUNT: self.columns.account(account, error)}

    def _inputs(self, row: Mapping[str, Any]) -> dict[str, Any]:
        given, task = self.columns.given(row), self.moa.signature
        if missing := missing_inputs(given, task):
            raise ValueError(f"The input {', '.join(missing)} is missing.")
        return {name: typed_input(name, value, task) for name, value in given.items()}
