"""What MLflow copies into a logged model and runs to load it; the rest comes from the installed package."""

from mlflow.models import set_model

from moa_dspy.tracking.program import MixtureProgram

set_model(MixtureProgram())
