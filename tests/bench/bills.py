"""Whether runs and traces say what the provider counted: `python tests/bench/bills.py [WORD ...]`, a table.

Each scenario works in an experiment of its own on a real MLflow server (SQLite), against a provider on the loopback
interface that keeps its own ledger. What is compared are the sums over the experiment's runs (without their children)
and over its traces.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "MLFLOW_DISABLE_TELEMETRY": "true", "OPENAI_API_KEY": "key"}

import dspy
import mlflow
import mlflow.genai
from mlflow.dspy import autolog as mlflow_autolog
from mlflow.litellm import autolog as litellm_autolog
from support.mixtures import EXAMPLES, QA
from support.mlflow_server import migrated, mlflow_server
from support.openai_server import ChatRequest, OpenAIServer, Reply, Tokens
from typer.testing import CliRunner

import moa_dspy
from moa_dspy import Limits, MoA, optimizers, track
from moa_dspy.cli import app

PRICES = 0.15e-6, 0.6e-6  # of openai/gpt-4o-mini, USD a token
Bill = tuple[int, int, float]


class Provider(OpenAIServer):
    """Answers whatever is asked for; "bad" refuses, "slow" takes a second."""

    def __init__(self) -> None:
        super().__init__(self.reply)
        self.calls = self.tokens = 0
        self.usd = 0.0

    def reply(self, request: ChatRequest) -> Reply:
        self.calls += 1
        if "bad" in request.text:
            return Reply("no", status=400)
        tokens = Tokens(prompt=100 + len(request.prompt) % 89, completion=10 + self.calls % 7)
        self.tokens += tokens.prompt + tokens.completion
        self.usd += tokens.prompt * PRICES[0] + tokens.completion * PRICES[1]
        wanted = request.text.partition("output fields are:")[2].partition("All inter")[0]
        fields = re.findall(r"^\d+\. `(\w+)`", wanted, re.MULTILINE)
        said = [f"[[ ## {name} ## ]]\n{'P1' if name == 'choice' else f'a{self.calls % 2}'}" for name in fields]
        latency = 1.0 if request.body.get("temperature") == 0.9 else 0.0
        return Reply("\n\n".join([*said, "[[ ## completed ## ]]"]), usage=tokens, latency=latency)

    def lm(self, number: int = 0, **options: Any) -> dspy.LM:
        options = {"cache": False, "num_retries": 0, "temperature": number / 10, **options}
        return dspy.LM("openai/gpt-4o-mini", api_base=self.url, api_key="key", **options)

    def mixture(self, **options: Any) -> MoA:
        return MoA(QA, [self.lm(1), self.lm(2), self.lm(3)], self.lm(4), **options)


def metric(example: Any, prediction: Any, *_: Any) -> float:
    return float(prediction.answer == example.answer)


def feedback(*arguments: Any) -> dspy.Prediction:
    return dspy.Prediction(score=metric(*arguments), feedback="Look it up.")


def tracked(work: Callable[[MoA], object], **options: Any) -> Callable[[Provider], None]:
    """What is done with a mixture in a tracked block."""

    def scenario(provider: Provider) -> None:
        moa = provider.mixture(**options)
        with track(moa, "block", EXAMPLES):
            work(moa)

    return scenario


def compiled(make: Callable[[Provider], Any], strategy: Any = "synthesis", **given: Any) -> Callable[[Provider], None]:
    """An optimizer's work: as a run by itself."""

    def scenario(provider: Provider) -> None:
        with dspy.context(lm=provider.lm(5)):
            make(provider).compile(provider.mixture(strategy=strategy), trainset=EXAMPLES, **given)

    return scenario


def in_threads(moa: MoA) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: moa(question=str(number)), range(8)))


async def gathered(moa: MoA) -> None:
    await asyncio.gather(*(moa.acall(question=str(number)) for number in range(5)))


async def streamed(moa: MoA) -> None:
    listen = [dspy.streaming.StreamListener("answer")]
    run: Any = dspy.streamify(moa, stream_listeners=listen, is_async_program=True)
    async for _ in run(question="?"):
        pass


def genai(moa: MoA) -> None:
    mlflow.genai.evaluate(
        data=[{"inputs": {"question": f"q{number}"}} for number in range(4)],
        predict_fn=lambda question: moa(question=question).answer,
        scorers=[mlflow.genai.scorer(lambda outputs: bool(outputs), name="said")],
    )


def before_and_after(moa: MoA) -> None:
    evaluate = dspy.Evaluate(devset=EXAMPLES, metric=metric, num_threads=2)
    evaluate(moa)
    evaluate(dspy.BootstrapFewShot(metric, max_bootstrapped_demos=1).compile(moa, trainset=EXAMPLES))


def nested(provider: Provider) -> None:
    moa = MoA(QA, [provider.mixture(), provider.lm(5)], provider.lm(6))
    with track(moa, "outer"):
        moa(question="?")


def side_by_side(provider: Provider) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda work: work(provider), [tracked(in_threads)] * 2))


def inside_another(moa: MoA) -> None:
    with track(moa, "inner"):
        moa(question="?")


def failing(moa: MoA) -> None:
    with suppress(moa_dspy.MoAError):
        moa(question="bad")
    moa(question="?")


def interrupted(provider: Provider) -> None:
    moa = provider.mixture()
    with suppress(KeyboardInterrupt), track(moa):
        moa(question="?")
        raise KeyboardInterrupt


def late(provider: Provider) -> None:
    moa = MoA(QA, [provider.lm(1), provider.lm(9)], provider.lm(2), limits=Limits(proposer_timeout=0.3))
    with track(moa):
        moa(question="?")
        time.sleep(1.5)


def beside(on: Callable[[], object], off: Callable[[], object], **options: Any) -> Callable[[Provider], None]:
    """Another autologging besides."""

    def scenario(provider: Provider) -> None:
        on()
        moa = MoA(QA, [provider.lm(number, **options) for number in (1, 2)], provider.lm(3, **options))
        with track(moa):
            in_threads(moa)
        off()

    return scenario


def command(words: str) -> Callable[[Provider], None]:
    def scenario(provider: Provider) -> None:
        Path("data.jsonl").write_text("".join(json.dumps(dict(row.items())) + "\n" for row in EXAMPLES))
        models = [{"model": "openai/gpt-4o-mini", "api_base": provider.url, "temperature": n / 10} for n in (1, 2)]
        config = {"signature": QA, "proposer_models": models, "aggregator_model": {**models[0], "temperature": 0.3}}
        Path("moa.json").write_text(json.dumps(config))
        done = CliRunner().invoke(app, [*words.split(), "--config", "moa.json", "--mlflow"])
        assert done.exit_code == 0, done.output

    return scenario


SCENARIOS: dict[str, Callable[[Provider], None]] = {
    "a call": tracked(lambda moa: moa(question="?")),
    "tasks side by side": tracked(lambda moa: asyncio.run(gathered(moa))),
    "threads of one's own": tracked(in_threads),
    "dspy.Parallel": tracked(lambda moa: dspy.Parallel(num_threads=3)([(moa, {"question": "?"})] * 5)),
    "streamed": tracked(lambda moa: asyncio.run(streamed(moa))),
    "three samples in two layers": tracked(lambda moa: moa(question="?"), num_proposals_per_model=3, layers=2),
    "a mixture in a mixture": nested,
    "two blocks side by side": side_by_side,
    "a block in a block": tracked(inside_another),
    "a call that fails": tracked(failing),
    "a proposer that is late": late,
    "interrupted": interrupted,
    "dspy.Evaluate": tracked(lambda moa: dspy.Evaluate(devset=EXAMPLES, metric=metric, num_threads=3)(moa)),
    "mlflow.genai.evaluate": tracked(genai),
    "moa_dspy.evaluate": tracked(lambda moa: moa_dspy.evaluate(moa, EXAMPLES, strategies=["synthesis", "voting"])),
    "evaluate, compile, evaluate": tracked(before_and_after),
    "BootstrapFewShot": compiled(lambda provider: dspy.BootstrapFewShot(metric)),
    "random search": compiled(
        lambda provider: dspy.BootstrapFewShotWithRandomSearch(metric, num_candidate_programs=1, num_threads=2)
    ),
    "MIPROv2": compiled(
        lambda provider: dspy.MIPROv2(metric, prompt_model=provider.lm(6), num_candidates=2, auto=None, num_threads=2),
        num_trials=2,
        minibatch=False,
        valset=EXAMPLES,
    ),
    "GEPA": compiled(
        lambda provider: dspy.GEPA(feedback, reflection_lm=provider.lm(6), max_metric_calls=12, num_threads=2)
    ),
    "SIMBA": compiled(
        lambda provider: dspy.SIMBA(metric=metric, bsize=3, num_candidates=2, max_steps=1, num_threads=2)
    ),
    "FitVoteWeights": compiled(lambda provider: optimizers.FitVoteWeights("exact"), "voting"),
    "SelectCommittee": compiled(lambda provider: optimizers.SelectCommittee("exact")),
    "Specialize": compiled(
        lambda provider: optimizers.Specialize("exact", recipe="quick", reflection_lm=provider.lm(6), num_threads=2),
        valset=EXAMPLES,
    ),
    "mlflow.autolog besides": beside(mlflow.autolog, lambda: mlflow.autolog(disable=True)),
    "mlflow.litellm.autolog besides": beside(litellm_autolog, lambda: litellm_autolog(disable=True), engine="litellm"),
    "mlflow.dspy.autolog besides": beside(mlflow_autolog, lambda: None),
    "moa-dspy run --mlflow": command("run data.jsonl -o answers.jsonl"),
    "moa-dspy eval --mlflow": command("eval data.jsonl"),
}


def main() -> None:
    """Play the scenarios, or those whose names hold a word given, and print a table."""
    with tempfile.TemporaryDirectory() as folder, Provider() as provider:
        os.chdir(folder)
        dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
        with mlflow_server(Path(folder), migrated(Path(folder) / "empty.db")) as url:
            mlflow.set_tracking_uri(url)
            print("| LM calls, tokens, USD | provider | runs | traces |", "|---|---|---|---|", sep="\n")
            for name, scenario in SCENARIOS.items():
                if not sys.argv[1:] or any(word in name for word in sys.argv[1:]):
                    try:
                        row = played(name, scenario, provider)
                    except Exception as error:
                        row = (f"{type(error).__name__}: {error}"[:200],)
                    print("", name, *row, "", sep=" | ", flush=True)


def played(name: str, scenario: Callable[[Provider], None], provider: Provider) -> tuple[str, ...]:
    """What the provider counted, the runs and the traces: the latter two in words where they agree."""
    experiment = mlflow.set_experiment(name)
    os.environ["MLFLOW_EXPERIMENT_NAME"] = name
    before = provider.calls, provider.tokens, provider.usd
    moa_dspy.autolog(log_traces_from_compile=True)
    scenario(provider)
    moa_dspy.autolog(disable=True)
    counted = provider.calls - before[0], provider.tokens - before[1], provider.usd - before[2]
    client = mlflow.MlflowClient()
    runs = client.search_runs([experiment.experiment_id])
    held = [run.data.metrics for run in runs if "mlflow.parentRunId" not in run.data.tags]
    tokens = sum(one.get("prompt_tokens", 0) + one.get("completion_tokens", 0) for one in held)
    logged = int(sum(one.get("calls", 0) for one in held)), int(tokens), sum(one.get("cost_usd", 0) for one in held)
    traces = client.search_traces(locations=[experiment.experiment_id], max_results=500)
    asked = [span for trace in traces for span in trace.data.spans if span.span_type == "CHAT_MODEL"]
    summed = [(trace.info.token_usage or {}).get("total_tokens", 0) for trace in traces]
    costs = [(trace.info.cost or {}).get("total_cost", 0) for trace in traces]
    said = compared(counted, logged)
    if said != _SAME:
        said += f", {sum(one.get('unpriced_calls', 0) for one in held):.0f} unpriced"
    return shown(counted), said, compared(counted, (len(asked), sum(summed), sum(costs)))


def shown(bill: Bill) -> str:
    return f"{bill[0]:,}, {bill[1]:,}, {bill[2]:.5f}"


def compared(counted: Bill, told: Bill) -> str:
    return _SAME if told[:2] == counted[:2] and abs(told[2] - counted[2]) < 1e-9 else shown(told)


_SAME = "the same"

if __name__ == "__main__":
    main()
