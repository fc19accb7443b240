"""A block of work with a mixture as one MLflow run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dspy

from moa_dspy.moa import MoA

from .dataset import as_dataset
from .guard import bounded
from .tracked import Tracked

__all__ = ["Tracked", "track"]


def track(moa: MoA, name: str | None = None, dataset: Any = None) -> AbstractContextManager[Tracked]:
    """Log what is done with a mixture inside a `with` block as one MLflow run, in MLflow's present experiment.

    Call the mixture (`moa(...)`, `moa.acall(...)`), evaluate it (`dspy.Evaluate`, `moa_dspy.evaluation.evaluate`),
    answer a batch or compile it with any optimizer; at the end the run holds:

    - parameters: the configuration, `alice/temperature` for an agent's (whole in `config.json`), and the class and
      the settings of each optimizer; prompts as artifacts and in the Prompt Registry (see `register_prompts`),
      before and after a compile; no secrets;
    - metrics of every LM call made inside, exact also while compiling: calls, tokens, cost in USD, calls without a
      known price, failures, cache hits, latency in seconds: per agent (`alice/calls`), per model
      (`models/openai/gpt-5/calls`), in `total`, and of compiling alone (`compile/calls`). LMs that no agent asks
      count as `optimizer` while an optimizer compiles (reflection, prompt models), else as `program`. The agents of
      a mixture in a mixture count as `outer.inner`. Without a known price there is no `cost_usd`;
    - quality, of the mixture and its copies (same strategy, agents and fields), an optimizer's trials left out:
      `score` (of the last evaluation, 0 to 1 for right or wrong), `oracle` (the best proposal's score; not where the
      metric asks a model), mean `agreement`, `degraded_share`, `fallback_share`;
    - the data set as an input, and `proposals.json`: who proposed what, and what was chosen (up to 5,000 rows).

    If a run is active in this thread, this one becomes its child. It is the active run of its thread inside the
    block, so autolog and GEPA's own mode log into it:
    `dspy.GEPA(..., use_mlflow=True, gepa_kwargs={"mlflow_attach_existing": True, "tracking_key_prefix": "gepa/"})`.
    Several blocks at once, in threads or tasks, keep apart; only what MLflow itself logs follows the thread, so in
    tasks that share one use `tracked.log_metrics`. Turn autolog on before the block, not inside.

    A tracking server that is down, hangs or is full costs one warning and at most 10 seconds (60 for a store on this
    machine, whose tables may have to be built; 30 for the Prompt Registry): nothing is tried any more, the block runs
    all the same, and `tracked` counts. A block that raises marks the run as failed, Ctrl-C as killed. Calls in threads
    that you start yourself are seen if they run in a copy of the context:
    `threading.Thread(target=contextvars.copy_context().run, args=(work,))`.

    Args:
        moa: The mixture.
        name: Of the run, and what its prompts' names begin with (`moa` without one).
        dataset: What the block works on: examples, dicts, a pandas DataFrame or a data set of MLflow's.

    Returns:
        A context manager that gives a `Tracked`.

    Raises:
        TypeError: If `moa` is no mixture, or the data set is something else.
        ValueError: If the data set is empty.

    Example:
        ```python
        with moa_dspy.track(moa, name="qa", dataset=val) as tracked:
            dspy.Evaluate(devset=val, metric=metric)(moa)
        print(tracked.run_id, tracked.usage.cost_usd)
        ```
    """
    if not isinstance(moa, MoA):
        raise TypeError(
            f"A moa_dspy.MoA is tracked, not a {type(moa).__name__}. Give the mixture inside your program: the whole "
            "program's calls are counted."
        )
    data = as_dataset(dataset)
    return _tracking(Tracked(moa, name), data)


@contextmanager
def _tracking(tracked: Tracked, data: Any) -> Iterator[Tracked]:
    with bounded(), tracked.run(data), dspy.context(**tracked.settings()):
        yield tracked
