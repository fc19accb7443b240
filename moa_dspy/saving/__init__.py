"""Saving and loading mixtures: DSPy's own files, with what it takes to build the mixture again."""
