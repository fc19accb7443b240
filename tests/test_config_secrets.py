import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from moa_dspy.config import MoAConfig
from moa_dspy.secrets import is_secret

SECRET = "hunter2-hunter2-hunter2"
NAMES = ["api_key", "openai_api_key", "headers", "extra_headers", "aws_secret_access_key", "aws_access_key_id", "token"]
NAMES += ["azure_ad_token", "vertex_credentials", "client_secret", "password", "Authorization", "cookie", "key"]


def config(place: str, name: str, value: Any) -> dict[str, Any]:
    """A config with a setting in the place."""
    setting = {name: value}
    deployment = {"model_name": "g", "litellm_params": {"model": "openai/any"}}
    match place:
        case "top":
            return {"proposer_models": ["openai/a"], **setting}
        case "proposer":
            return {"proposer_models": [{"model": "openai/a", **setting}]}
        case "strategy":
            return {"proposer_models": ["openai/a"], "aggregation_strategy": {"name": "voting", **setting}}
        case "limits":
            return {"proposer_models": ["openai/a"], "limits": setting}
        case "router":
            return {"proposer_models": ["openai/a"], "router": {"model_list": [deployment], **setting}}
        case "deployment":
            params = {"model": "openai/any", **setting}
            return {
                "proposer_models": ["openai/a"],
                "router": {"model_list": [{**deployment, "litellm_params": params}]},
            }
        case _:
            params = {"model": "openai/any", "thinking": setting}
            return {
                "proposer_models": ["openai/a"],
                "router": {"model_list": [{**deployment, "litellm_params": params}]},
            }


PLACES = ["top", "proposer", "strategy", "limits", "router", "deployment", "deep in a deployment"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
def test_a_secret_is_refused_and_never_repeated(tmp_path: Path, place: str, name: str) -> None:
    for value in (SECRET, {"x": SECRET}, [SECRET]):
        data = config(place, name, value)
        path = tmp_path / "moa.yaml"
        path.write_text(yaml.safe_dump(data))
        with pytest.raises(ValueError, match=f"{name}: a config holds no secrets") as loaded:
            MoAConfig.load(path)
        with pytest.raises(ValidationError, match="a config holds no secrets") as made:
            MoAConfig.model_validate(data)
        said = "".join(traceback.format_exception(loaded.value)) + "".join(traceback.format_exception(made.value))
        assert SECRET not in said + repr(made.value.errors()) + made.value.json()


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (config("proposer", "api_key", SECRET), "Remove it and set the environment variable OPENAI_API_KEY."),
        (
            {"proposer_models": [{"model": "together_ai/x/y", "api_key": SECRET}]},
            "Remove it and set the environment variable TOGETHER_AI_API_KEY.",
        ),
        (
            config("deployment", "api_key", SECRET),
            "Name the environment variable that holds it: api_key: os.environ/OPENAI_API_KEY.",
        ),
        (
            config("deployment", "aws_session_token", SECRET),
            "Name the environment variable that holds it: aws_session_token: os.environ/AWS_SESSION_TOKEN.",
        ),
        (
            config("proposer", "headers", {"x": SECRET}),
            "Give headers in code: dspy.LM(model, extra_headers=...) is a proposer too.",
        ),
        (
            config("proposer", "api_base", f"https://me:{SECRET}@host/v1"),
            "Leave the login out of the address, and set the environment variable OPENAI_API_KEY.",
        ),
        (
            config("deployment", "api_base", f"https://host/v1?api_key={SECRET}"),
            "Leave the login out of the address, and set the environment variable OPENAI_API_KEY.",
        ),
    ],
)
def test_the_error_says_where_the_secret_belongs(data: dict[str, Any], hint: str) -> None:
    with pytest.raises(ValidationError) as raised:
        MoAConfig.model_validate(data)
    [problem] = raised.value.errors()
    assert problem["msg"] == f"a config holds no secrets, as it is saved, shared and logged. {hint}"


@pytest.mark.parametrize("value", ["os.environ/", "os.environ/A B", "OS.ENVIRON/A", "prefix os.environ/A", SECRET])
def test_only_a_whole_reference_stands_for_a_key(value: str) -> None:
    with pytest.raises(ValidationError, match="a config holds no secrets"):
        MoAConfig.model_validate(config("deployment", "api_key", value))


def test_a_deployments_key_may_be_named_and_stays_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAST_KEY", SECRET)
    found = MoAConfig.model_validate(config("deployment", "api_key", "os.environ/FAST_KEY"))
    assert found.router is not None
    assert found.router.model_list[0].litellm_params == {"model": "openai/any", "api_key": "os.environ/FAST_KEY"}
    assert "os.environ/FAST_KEY" in found.to_yaml() and SECRET not in found.to_yaml() + repr(found)


@pytest.mark.parametrize("place", [place for place in PLACES if "deployment" not in place])
def test_a_reference_elsewhere_is_refused_as_nobody_would_read_it(place: str) -> None:
    with pytest.raises(ValidationError, match="a config holds no secrets"):
        MoAConfig.model_validate(config(place, "api_key", "os.environ/FAST_KEY"))


@pytest.mark.parametrize(
    "name", ["max_tokens", "tpm", "input_cost_per_token", "keyword", "monkey", "tokenizer", "model", "instructions"]
)
def test_what_is_no_secret_is_none(name: str) -> None:
    assert not is_secret(name)
