"""Prompts in the registry: exact, a version per text, and back again."""

import json
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from mlflow.genai import load_prompt, set_prompt_alias
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, cast, mixture, says
from support.mlflow_server import free_port

import moa_dspy
from moa_dspy import load_prompts, register_prompts, track
from moa_dspy.tracking import flush
from moa_dspy.tracking import store as store_module

CAPITAL = "What is the capital of Australia?"
SHARED = "proposers.shared.predict"


def told(moa: Any, instructions: str) -> Any:
    copy = moa.deepcopy()
    predictor = dict(copy.named_predictors())[SHARED]
    predictor.signature = predictor.signature.with_instructions(instructions)
    return copy


def test_a_text_has_one_version_whatever_came_between(store: Path) -> None:
    first = mixture(cast("a", "judge"))
    second = told(first, "Think {{hard}}.")
    assert register_prompts(first, "qa")[f"qa.{SHARED}"] == 1
    assert [register_prompts(moa, "qa")[f"qa.{SHARED}"] for moa in (second, first, second, first)] == [2, 1, 2, 1]
    assert load_prompt(f"prompts:/qa.{SHARED}/2").template == "Think {{hard}}."


def test_three_equal_tunings_make_two_versions_and_names_carry_the_experiment(store: Path) -> None:
    moa = mixture({"a": FakeLM("a", says("a0")), "judge": FakeLM("judge", says("a0"))})
    runs = []
    for _ in range(3):
        with track(moa, "qa") as tracked:
            runs.append(str(tracked.run_id))
            dspy.BootstrapFewShot(lambda *_: True, max_bootstrapped_demos=1).compile(moa, trainset=EXAMPLES[:1])
    assert load_prompt(f"mixtures.qa.{SHARED}", version=3, allow_missing=True) is None
    tuned = load_prompt(f"prompts:/mixtures.qa.{SHARED}@latest")
    assert (tuned.version, "--- demo 1" in str(tuned.template)) == (2, True)
    assert f"mixtures.qa.{SHARED}" in str(mlflow.get_run(runs[-1]).data.tags["mlflow.linkedPrompts"])


def test_they_come_back_by_an_alias(store: Path) -> None:
    moa = mixture(cast("a", "judge"))
    register_prompts(told(moa, "Think."), "qa")
    register_prompts(told(moa, "Doubt."), "qa")
    set_prompt_alias(f"qa.{SHARED}", "best", 1)

    def instructions(back: Any) -> str:
        return str(dict(back.named_predictors())[SHARED].signature.instructions)

    assert [instructions(load_prompts(moa, "qa", alias)) for alias in ("best", "latest")] == ["Think.", "Doubt."]
    with pytest.raises(ValueError, match="The registry has no prompt other"):
        load_prompts(moa, "other")


def test_traces_name_the_versions_and_the_model(store: Path) -> None:
    moa_dspy.autolog()
    moa = mixture(cast("a", "judge"))
    moa(question="0")
    register_prompts(moa, "qa")
    moa(question="1")
    register_prompts(told(moa, "Think."), "qa")
    load_prompts(moa, "qa")(question="2")
    simulated = moa_dspy.MoA("question -> answer", ["simulated/alice"], strategy="voting")
    info = moa_dspy.log_model(simulated, "voters")
    moa_dspy.load_model(info.model_uri)(question=CAPITAL)
    flush()
    found = {one.data.spans[0].inputs["question"]: one.info for one in mlflow.search_traces(return_type="list")}
    named = [json.loads(found[number].tags.get("mlflow.linkedPrompts", "[]")) for number in "012"]
    versions = [[one["version"] for one in prompts if one["name"] == f"qa.{SHARED}"] for prompts in named]
    assert (versions, found[CAPITAL].trace_metadata["mlflow.modelId"]) == ([[], ["1"], ["2"]], info.model_id)


def test_tags_say_whose_it_is(store: Path) -> None:
    register_prompts(mixture(cast("a", "b", "judge")), "qa")
    tags = load_prompt(f"prompts:/qa.{SHARED}@latest").tags
    assert {name: tags[name] for name in ("role", "model", "predictor")} == {
        "role": "a, b",
        "model": "a, b",
        "predictor": SHARED,
    }


def test_no_mixture_is_refused() -> None:
    program: Any = dspy.Predict("question -> answer")
    with pytest.raises(TypeError, match=r"registered of a moa_dspy\.MoA, not of a Predict"):
        register_prompts(program)


def test_no_registry_costs_a_warning(
    untracked: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("moa_dspy.tracking.prompts.LIMIT_AT_END", 1.0)
    mlflow.set_tracking_uri(f"http://me:hidden-word@127.0.0.1:{free_port()}")
    assert moa_dspy.register_prompts(mixture(cast("a", "judge"))) == {}
    [said] = [record.getMessage() for record in caplog.records if record.name == store_module.logger.name]
    assert "the prompts are not registered" in said and "hidden-word" not in said
