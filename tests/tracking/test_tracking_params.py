from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dspy
import mlflow
import mlflow.artifacts
import pytest
from mlflow.utils import validation
from support.fake_lm import FakeLM
from support.mixtures import QA, cast, mixture

from moa_dspy import Agent, Limits, MoA, Voting, track
from moa_dspy.tracking.naming import metric_names, prompt_names
from moa_dspy.tracking.params import LONGEST, config_of, optimizer_params, params_of

SECRET = "hunter2-hunter2"


def test_the_whole_configuration_is_flat() -> None:
    agents = [
        Agent(FakeLM("x/a", [], temperature=0.7), name="ada", instructions="Be brief."),
        Agent(FakeLM("x/b", []), name="bo"),
    ]
    voting = Voting(early_stop=True)
    moa = MoA(
        QA,
        agents,
        strategy=voting,
        num_proposals_per_model=2,
        use_specialized_prompts=True,
        limits=Limits(min_proposals=2),
    )
    params = params_of(config_of(moa))
    assert {name: params.pop(name) for name in list(params) if name.startswith(("ada/", "strategy"))} == {
        "strategy/early_stop": "true",
        "strategy/weights": "{}",
        "strategy/fields": "null",
        "strategy/tolerance": "1e-06",
        "strategy/exact_text": "false",
        "strategy": "voting",
        "ada/model": "x/a",
        "ada/model_type": "chat",
        "ada/cache": "false",
        "ada/num_retries": "0",
        "ada/temperature": "0.7",
        "ada/engine": "support.fake_engine:FakeEngine",
        "ada/async_engine": "support.fake_engine:AsyncFakeEngine",
        "ada/instructions": "Be brief.",
        "ada/program": "ChainOfThought",
    }
    assert params["bo/model"] == "x/b" and "bo/temperature" not in params
    assert {name: params[name] for name in ("signature", "layers", "num_proposals_per_model")} == {
        "signature": QA,
        "layers": "1",
        "num_proposals_per_model": "2",
    }
    assert (params["use_specialized_prompts"], params["limits/min_proposals"]) == ("true", "2")


def test_models_of_later_layers_stand_there_only_where_they_differ() -> None:
    moa = mixture(cast("a", "judge"), layers=2)
    assert [name for name in config_of(moa)["agents"]] == ["a", "aggregator"]
    moa.panels[1].agents[0].lm = FakeLM("other", [])
    agents = config_of(moa)["agents"]
    assert (list(agents), agents["layer_2.a"]["model"]) == (["a", "layer_2.a", "aggregator"], "other")


def test_secrets_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "swordfish-123")
    secrets: dict[str, Any] = {
        "api_key": SECRET,
        "headers": {"Authorization": f"Bearer {SECRET}"},
        "extra_headers": {"x": SECRET},
        "aws_secret_access_key": SECRET,
        "vertex_credentials": json.dumps({"private_key": SECRET}),
    }
    agent = Agent(dspy.LM("openai/x", user="swordfish-123", **secrets), name="ada", instructions=f"Say {SECRET}.")
    config = config_of(MoA(QA, [agent], FakeLM("judge", []), use_specialized_prompts=True))
    assert set(config["agents"]["ada"]["left_out"]) >= set(secrets)
    text = json.dumps([config, params_of(config)])
    assert SECRET not in text and "swordfish" not in text and "Say ***." in text


def test_an_optimizers_settings_are_said_as_far_as_they_can_be() -> None:
    class Mine(dspy.teleprompt.Teleprompter):
        def __init__(self) -> None:
            self.rounds, self.api_key, self.metric, self._own = 3, SECRET, test_secrets_are_left_out, 1
            self.lm, self.nothing, self.inner = FakeLM("coach", []), None, dspy.LabeledFewShot(k=1)
            self.odd = object()

    given = {"student": 1, "trainset": [dspy.Example()] * 3, "kwargs": {"sizes": [1, 2], "steps": {"a": 1}}}
    assert optimizer_params(Mine(), given) == {
        "optimizer": "Mine",
        "optimizer/rounds": "3",
        "optimizer/metric": "test_secrets_are_left_out",
        "optimizer/lm": "coach",
        "optimizer/inner": "LabeledFewShot",
        "optimizer/trainset": "3 items",
        "optimizer/sizes": "[1, 2]",
        "optimizer/steps/a": "1",
    }


def test_what_is_too_long_is_cut_and_whole_in_the_artifact(store: Path) -> None:
    text = "long {{x}} " * 1000
    agent = Agent(FakeLM("a", []), name="ada", instructions=text)
    with track(MoA(QA, [agent], FakeLM("judge", []), use_specialized_prompts=True)) as tracked:
        pass
    assert tracked.run_id is not None
    run = mlflow.get_run(tracked.run_id)
    said = run.data.params["ada/instructions"]
    note = " [... cut; whole in config.json]"
    assert said == text[: LONGEST - len(note)] + note
    config = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/config.json"))
    assert config["agents"]["ada"]["instructions"] == text


@pytest.mark.parametrize(
    ("names", "mapped"),
    [
        (["plain", "with space", "a.b-c_d"], ["plain", "with space", "a.b-c_d"]),
        (["a:b", "a_b", "a*b"], ["a_b_2", "a_b", "a_b_3"]),
        (["A", "a"], ["A", "a_2"]),
        (["größe", "日本"], ["gr__e", "__"]),
        (["x//y", "../y", "/y", "."], ["x/_/y", "_/y", "_/y_2", "_"]),
        (["total"], ["total_2"]),
        (["x" * 300, "x" * 301], ["x" * 150, "x" * 150 + "_2"]),
        (["", " "], ["_", "__2"]),
    ],
)
def test_names_that_mlflow_refuses_are_mapped_apart(names: list[str], mapped: list[str]) -> None:
    check: Any = validation._validate_metric_name
    found = metric_names(names, taken=["total"])
    assert (list(found), list(found.values())) == (names, mapped)
    for name in mapped:
        check(f"{name}/calls")


def test_prompts_names_too() -> None:
    found = prompt_names(["a.b[0]", "a.b_0_", "ü"])
    assert list(found.values()) == ["a.b_0__2", "a.b_0_", "_"]


def test_agents_of_any_name_reach_mlflow(store: Path) -> None:
    moa = MoA(
        QA, [Agent(FakeLM("prov:x/m*1", lambda _: {"reasoning": "", "answer": "1"}), name="größe")], None, "voting"
    )
    with track(moa) as tracked:
        moa(question="?")
    assert tracked.run_id is not None
    data = mlflow.get_run(tracked.run_id).data
    assert data.metrics["gr__e/calls"] == data.metrics["models/prov_x/m_1/calls"] == 1
    assert data.params["gr__e/model"] == "prov:x/m*1"
