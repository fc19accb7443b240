"""Logged mixtures: what MLflow stores of them, and what comes back."""

import time
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.models.model import ModelInfo
from support.mixtures import QA
from support.mlflow_server import free_port

import moa_dspy
from moa_dspy import MoA
from moa_dspy.tracking import store as mlflow_store

CAPITAL = "What is the capital of Australia?"


def simulated(**options: Any) -> MoA:
    return MoA(QA, ["simulated/alice", "simulated/bob", "simulated/carol"], "simulated/judge", **options)


def folder_of(info: ModelInfo) -> Path:
    return Path(download_artifacts(artifact_uri=info.model_uri))


def models() -> list[Any]:
    return list(mlflow.search_logged_models(output_format="list"))


class TestLogging:
    def test_needs_no_run_and_makes_none(self, store: Path) -> None:
        assert moa_dspy.log_model(simulated(), "capitals").run_id is None
        assert (mlflow.active_run(), mlflow.search_runs(output_format="list")) == (None, [])

    def test_is_made_of_json_and_code(self, store: Path) -> None:
        info = moa_dspy.log_model(simulated(), "capitals", input_example={"question": CAPITAL})
        assert sorted(str(file.relative_to(folder_of(info))) for file in folder_of(info).rglob("*.*")) == [
            "artifacts/program.json",
            "conda.yaml",
            "input_example.json",
            "python_env.yaml",
            "requirements.txt",
            "served_mixture.py",
            "serving_input_example.json",
        ]

    def test_leaves_the_project_at_home(
        self, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        home = tmp_path_factory.mktemp("project")
        for name in ("uv.lock", "pyproject.toml"):
            (home / name).write_text("# not the model's\n")
        monkeypatch.chdir(home)
        folder = folder_of(moa_dspy.log_model(simulated(), "capitals"))
        assert [path.name for path in folder.iterdir() if path.name in ("uv.lock", "pyproject.toml")] == []

    def test_names_what_to_install(self, store: Path) -> None:
        folder = folder_of(moa_dspy.log_model(simulated(), "capitals"))
        names = [line.partition("==")[0] for line in (folder / "requirements.txt").read_text().splitlines()]
        assert names == ["mlflow", "moa-dspy", "dspy", "litellm"]
        folder = folder_of(moa_dspy.log_model(simulated(), "capitals", pip_requirements=["mlflow", "moa-dspy>=0.1"]))
        assert (folder / "requirements.txt").read_text().split() == ["mlflow", "moa-dspy>=0.1"]

    def test_asks_nobody(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(MoA, "__call__", lambda *args, **kwargs: pytest.fail("asked"))
        info = moa_dspy.log_model(simulated(), "capitals", input_example=dspy.Example(question=CAPITAL))
        assert info.saved_input_example_info is not None


class TestRefusal:
    def test_of_an_lm_that_no_file_holds(self, store: Path) -> None:
        class Mine(dspy.LM):
            pass

        with pytest.raises(ValueError, match=r"cannot be logged as a model\. .*Mine"):
            moa_dspy.log_model(MoA(QA, [Mine("openai/mine")], strategy="voting"), "mine")
        assert models() == []

    def test_of_who_asks_the_ambient_lm(self, store: Path) -> None:
        with (
            dspy.context(lm=dspy.LM("openai/mine")),
            pytest.raises(ValueError, match=r"^aggregator: without an LM of its own, an agent asks dspy\.settings\.lm"),
        ):
            moa_dspy.log_model(MoA(QA, ["simulated/alice", "simulated/bob"]), "ambient")

    @pytest.mark.parametrize("example", [{"query": "?"}, {"question": 5}, [{"question": "?"}, {}]])
    def test_of_an_example_that_does_not_fit(self, store: Path, example: Any) -> None:
        with pytest.raises(ValueError, match="The input example does not fit the task"):
            moa_dspy.log_model(simulated(), "capitals", input_example=example)
        assert models() == []

    def test_of_an_example_without_rows(self, store: Path) -> None:
        with pytest.raises(ValueError, match="holds no row"):
            moa_dspy.log_model(simulated(), "capitals", input_example=[])

    def test_of_another_model(self, store: Path) -> None:
        path = store / "other.py"
        path.write_text("from mlflow.models import set_model\n\ndef f(x: list[str]):\n    return x\n\nset_model(f)\n")
        info = mlflow.pyfunc.log_model(name="other", python_model=str(path), pip_requirements=["mlflow"])
        with pytest.raises(ValueError, match=r"is no mixture \(python_function\)"):
            moa_dspy.load_model(info.model_uri)


class TestServer:
    def test_that_is_down_is_said_soon(self, untracked: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(mlflow_store, "LIMIT", 1.0)
        mlflow.set_tracking_uri(f"http://me:planted-login@127.0.0.1:{free_port()}")
        started = time.monotonic()
        with pytest.raises(ConnectionError, match=r"MLflow at http://\*\*\*@127.* does not answer") as caught:
            moa_dspy.log_model(simulated(), "capitals")
        assert time.monotonic() - started < 15 and "planted-login" not in str(caught.value)


class TestSettings:
    def test_stay_as_they_are(self, store: Path) -> None:
        lm, adapter = dspy.LM("openai/mine"), dspy.JSONAdapter()
        dspy.configure(lm=lm, adapter=adapter)
        before = dspy.settings.copy()
        info = moa_dspy.log_model(simulated(), "capitals")
        moa_dspy.load_model(info.model_uri)
        mlflow.pyfunc.load_model(info.model_uri).predict([{"question": CAPITAL}])
        assert dspy.settings.copy() == before
