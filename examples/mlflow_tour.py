"""A mixture in MLflow: four strategies compared, each model's prompt tuned, and what there is to look at.

python examples/mlflow_tour.py                     into mlflow.db here, or where MLFLOW_TRACKING_URI says
python examples/mlflow_tour.py --pictures FOLDER   and pictures of MLflow's pages: pip install playwright, Chromium
"""

import argparse
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow
from mlflow.genai import search_prompts

import moa_dspy
from moa_dspy import MoA
from moa_dspy.evaluation import evaluate
from moa_dspy.optimizers import Specialize
from moa_dspy.simulated import SIMULATED_MODELS, SimulatedLM
from moa_dspy.simulated.questions import bundled_questions
from moa_dspy.tracking import flush

TASK = "question -> answer"
# What the simulated models pretend to cost, in USD per million prompt and completion tokens.
PRICES = {"alice": (0.25, 2.0), "bob": (0.3, 2.5), "carol": (1.0, 5.0), "judge": (2.0, 8.0)}


def simulated(name: str) -> SimulatedLM:
    return SimulatedLM(name, profile=replace(SIMULATED_MODELS[name], price=PRICES[name]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    options, _ = parser.parse_known_args()
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network: the price list that LiteLLM brings
    questions = bundled_questions()
    random.Random(0).shuffle(questions)
    train, val = questions[:60], questions[60:]

    experiment = mlflow.set_experiment("moa-dspy tour")
    moa_dspy.autolog()
    *proposers, judge = [simulated(name) for name in PRICES]

    moa = MoA(TASK, proposers, judge)
    with moa_dspy.track(moa, "strategies", val) as strategies:
        strategies.log_comparison(evaluate(moa, val, concurrency=1))

    panel = MoA(TASK, proposers, judge, use_specialized_prompts=True)
    with moa_dspy.track(panel, "tuned", train) as tuning:
        tuned = Specialize("exact", recipe="quick").compile(panel, trainset=train[:30], valset=train[30:])
        for example in val[:12]:
            tuned(question=example.question)
    flush()

    print(f"MLflow at {mlflow.get_tracking_uri()}, experiment {experiment.name!r}. Open it with: moa-dspy ui")
    print(f"  Traces   one per question: who was asked what, tokens and cost of each call ({tuning.usage.calls} calls)")
    print("  Runs     'strategies' holds one run per system: mark them and press Compare")
    print("  Prompts  'tuned.*': what tuning changed for each model, version 1 against version 2")
    print("  Overview tokens and cost by model")
    if options.pictures:
        take_pictures(options.pictures, experiment.experiment_id, strategies.run_id)


def take_pictures(folder: Path, experiment: str, parent: str | None) -> None:
    """MLflow's pages on all this, as a browser shows them."""
    from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

    folder.mkdir(parents=True, exist_ok=True)
    runs = mlflow.MlflowClient().search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    systems = [run.info.run_id for run in runs if run.info.run_name in ("synthesis", "selection", "voting", "fusion")]
    trace = next(
        trace
        for trace in mlflow.search_traces(locations=[experiment], return_type="list")
        if trace.data.spans and trace.data.spans[0].name.startswith("MoA")
    )
    compared = f"runs=%5B{','.join(f'%22{run}%22' for run in systems)}%5D&experiments=%5B%22{experiment}%22%5D"
    client = mlflow.MlflowClient()
    prompts = [prompt.name for prompt in search_prompts()]
    changed = next(name for name in prompts if len(client.search_prompt_versions(name)) > 1)
    pages = {
        "traces": f"experiments/{experiment}/traces",
        "trace": f"experiments/{experiment}/traces?selectedEvaluationId={trace.info.trace_id}",
        "strategies": f"compare-runs?{compared}",
        "prompt": f"experiments/{experiment}/prompts/{changed}",
        "overview": f"experiments/{experiment}/overview/usage",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", mlflow.get_tracking_uri()]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen([*command, "--port", "5077", "--workers", "1"], env=environment)
    address = "http://127.0.0.1:5077"
    with server, sync_playwright() as playwright:
        quiet = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=quiet
        )
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        page.wait_for_timeout(20_000)  # until the server answers
        for name, path in pages.items():
            page.goto(f"{address}/#/{path}")
            page.wait_for_timeout(8000)
            for welcome in (page.get_by_text("Got it"), page.get_by_label("Close", exact=True)):
                if name == "traces" and welcome.count():
                    welcome.last.click()
            if name == "prompt":
                page.get_by_text("Compare", exact=True).click()
                page.get_by_text("Text", exact=True).click()
            if name == "overview":
                page.get_by_text("Cost Breakdown").scroll_into_view_if_needed()
            page.wait_for_timeout(2000)
            page.screenshot(path=folder / f"{name}.png")
            print(folder / f"{name}.png")
        server.terminate()


if __name__ == "__main__":
    main()
