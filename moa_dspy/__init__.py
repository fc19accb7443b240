"""Mixture of Agents as a DSPy program."""
