"""What a file says of a mixture: the data of its config, and what has no place in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

__all__ = ["FORMAT", "SAVED", "SavedMixture", "is_saved"]

SAVED: Final = "moa_dspy"
"""The key of a mixture's own entry in what DSPy saves."""
FORMAT: Final = 2


class SavedMixture(BaseModel):
    """A mixture as it stands in a file.

    Attributes:
        format: The version of the format.
        version: The version of moa-dspy that wrote it.
        config: The data of a `MoAConfig`, with its `signature`.
        lms: Path of an agent -> its model's entry, where that is another one than the config's.
        left_out: Path of an agent -> the settings of its LM that are not in the file: secrets, and what is no JSON.
        calibration: The data of its `Calibration`, if it has one.
        code: What no file can bring back -> why: programs and strategies of the user's own, functions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    format: int
    version: str
    config: dict[str, Any]
    lms: dict[str, dict[str, Any]] = {}
    left_out: dict[str, list[str]] = {}
    calibration: dict[str, Any] | None = None
    code: dict[str, str] = {}

    @classmethod
    def of(cls, state: Any) -> SavedMixture:
        """What DSPy's state holds of a mixture; ValueError if that is none, or of another format."""
        found = state.get(SAVED) if isinstance(state, Mapping) else None
        if not isinstance(found, Mapping):
            raise ValueError(
                "This holds no mixture: MoA.save writes one. A program around a mixture is loaded by its own load()."
            )
        if (written := found.get("format")) != FORMAT:
            convert = (
                "Upgrade moa-dspy."
                if isinstance(written, int) and written > FORMAT
                else "To convert it, build the mixture in code, give each predictor its part of the file, "
                "`for name, part in moa.named_predictors(): part.load_state(data[name])`, and save() it again."
            )
            raise ValueError(
                f"The mixture was saved in format {written} (by moa-dspy {found.get('version')}), and this version "
                f"reads format {FORMAT}. {convert}"
            )
        return cls.model_validate(found)

    def data(self) -> dict[str, Any]:
        """The mixture as JSON-able data, without what is not set."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def buildable(self) -> dict[str, Any]:
        """The data of the config from which the mixture is built."""
        if self.code:
            code = "; ".join(f"{what} {why}" for what, why in self.code.items())
            raise ValueError(f"No file can bring code back: {code}. Build the mixture in code and use load().")
        return self.config

    def entry(self, path: str) -> dict[str, Any]:
        """The model's entry of the agent at this path; empty if it has none."""
        named = {entry["name"]: entry for entry in self.config["proposer_models"]}
        usual: dict[str, Any] = self.config.get(f"{path}_model") or named.get(path.rpartition(".")[2]) or {}
        return self.lms.get(path, usual)


def is_saved(data: Mapping[str, Any]) -> bool:
    """Whether this is what DSPy saves, and no config."""
    return SAVED in data or "metadata" in data
