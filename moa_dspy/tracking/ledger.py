"""The ledger: every LM call under it, by whoever asked, those of compiling among them."""

from __future__ import annotations

from typing import Any

import dspy

from moa_dspy.usage import LMCall, Meter

__all__ = ["OPTIMIZER", "PROGRAM", "Ledger"]

PROGRAM = "program"
"""Who asked, where it was no agent: a program around the mixture, a metric."""

OPTIMIZER = "optimizer"
"""The same while an optimizer compiles: reflection, proposals of prompts, a metric."""


class Ledger(Meter):
    """Counts every LM call made under its settings, each once, in threads and tasks that DSPy or a mixture starts.

    A row's agent is who asked; for a mixture inside a mixture the way to it, as `panel.alice`.

    Attributes:
        compiles: Call ids of the compiles under way.
    """

    def __init__(self) -> None:
        super().__init__(PROGRAM)
        self.compiles: set[str] = set()
        self._askers: dict[str, list[Meter]] = {}
        self._compiling: set[str] = set()

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        if dspy.settings.track_usage and self._parent is None:
            # DSPy notes each program's own usage only where there is no tracker yet. The history has it too.
            del settings["usage_tracker"]
        return settings

    def calls(self, *, compiling: bool | None = None) -> list[LMCall]:
        """The calls so far, in the order in which they were started.

        Args:
            compiling: Only those made while an optimizer compiled, or only the others.
        """
        rows = [(call_id, self._so_far(call_id, row)) for call_id, row in list(self._rows.items())]
        wanted = [pair for pair in rows if compiling is None or (pair[0] in self._compiling) == compiling]
        return [self._named(call_id, row) for call_id, row in wanted]

    def _named(self, call_id: str, row: LMCall) -> LMCall:
        is_under_way = call_id in self._askers
        return row.model_copy(update={"agent": self._who(call_id, row)}) if is_under_way else row

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.compiles.add(call_id)

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        self.compiles.discard(call_id)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        super().on_lm_start(call_id, instance, inputs)
        if self.compiles:
            self._compiling.add(call_id)
            self._rows[call_id].agent = OPTIMIZER
        callers = dspy.settings.caller_modules or []
        self._askers[call_id] = [caller for caller in callers if isinstance(caller, Meter) and caller is not self]

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        super().on_lm_end(call_id, outputs, exception)
        row = self._rows[call_id]
        row.agent = self._who(call_id, row)
        del self._askers[call_id]

    def _who(self, call_id: str, row: LMCall) -> str:
        """Whom the agents' meters name on the way to the call; where there are none, a bill's own name for it."""
        agents, bills = [], []
        for meter in self._askers.get(call_id, ()):
            if type(meter) is Meter:
                agents.append(meter.agent)
            elif not isinstance(meter, Ledger) and (known := meter.call(call_id)) is not None:
                bills.append(known.agent)  # which a bill knows once the call has begun
        return ".".join(agents) or (bills[-1] if bills else row.agent)
