"""A mixture as data: what `MoA` takes, as YAML or JSON."""

from moa_dspy.config.mixture import MoAConfig, ModelConfig

__all__ = ["MoAConfig", "ModelConfig"]
