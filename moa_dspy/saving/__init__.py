"""Saving and loading mixtures: a file is the mixture's config with its signature, and DSPy's own state.

A saved mixture is a JSON file of DSPy's: one entry per predictor, with its prompt and demos, and one of ours,
`moa_dspy`, from which the mixture is built (`SavedMixture`). Nothing that a file names is imported, and no address in
it is used, unless the caller says that it is trusted (`allow_unsafe_lm_state`). No secret is written.
"""

from moa_dspy.saving.savable import Savable

__all__ = ["Savable"]
