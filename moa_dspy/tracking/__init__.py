"""Mixtures as MLflow experiments: traces, runs, prompts and models. Imported when first needed."""

try:
    import mlflow as _mlflow  # noqa: F401
except ImportError as error:
    raise ImportError("Tracking needs MLflow, which is not installed: pip install 'moa-dspy[mlflow]'.") from error
