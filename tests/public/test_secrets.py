"""Keys, headers and logins are refused in configs and left out of files. All that leaves: test_planted_secrets.py."""

import traceback
from pathlib import Path
from typing import Any

import dspy
import pytest
import yaml
from support.mixtures import QA

from moa_dspy import Agent, Limits, MoA, MoAConfig, TooFewProposals

SECRET = "planted-" + "s3cret-1234"
ACCESS: dict[str, Any] = {
    "api_key": SECRET,
    "headers": {"X-Auth": SECRET},
    "extra_headers": {"Authorization": f"Bearer {SECRET}", "nested": {"deep": SECRET}},
    "aws_secret_access_key": SECRET,
    "aws_session_token": SECRET,
    "azure_ad_token": SECRET,
    "client_secret": SECRET,
    "vertex_credentials": {"private_key": SECRET},
    "api_base": f"https://me:{SECRET}@host/v1",
    "extra_body": {"auth": SECRET, "sessions": [{"cookie": SECRET}], "keep": 1},
    "echo": f"the key {SECRET} under another name",
}


class Raises(dspy.Module):
    """A program that tells what it should not."""

    def __init__(self, text: str, lm: dspy.BaseLM | None = None) -> None:
        super().__init__()
        self.text = text
        self.answer = dspy.Predict(QA)
        if lm is not None:
            self.answer.set_lm(lm)

    def forward(self, question: str) -> Any:
        raise RuntimeError(self.text)


@pytest.mark.parametrize("name", ["headers", "aws_secret_access_key"])
@pytest.mark.parametrize("place", ["top", "proposer", "strategy", "limits"])
def test_a_config_refuses_a_secret_and_never_repeats_it(tmp_path: Path, place: str, name: str) -> None:
    own = {name: SECRET}
    places: dict[str, Any] = {
        "top": {"proposer_models": ["openai/a"], **own},
        "proposer": {"proposer_models": [{"model": "openai/a", **own}]},
        "strategy": {"proposer_models": ["openai/a"], "aggregation_strategy": {"name": "voting", **own}},
        "limits": {"proposer_models": ["openai/a"], "limits": own},
    }
    data = places[place]
    (tmp_path / "moa.yaml").write_text(yaml.safe_dump(data))
    makers: list[Any] = [lambda: MoAConfig.load(tmp_path / "moa.yaml"), lambda: MoAConfig.model_validate(data)]
    for make in makers:
        with pytest.raises(ValueError, match=f"(?s){name}.*secret") as raised:
            make()
        assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_a_refused_key_is_told_where_it_belongs() -> None:
    with pytest.raises(ValueError, match=r"os\.environ/MY_API_KEY"):
        MoAConfig(proposer_models=[{"model": "openai/a", "api_key": SECRET}])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="secret"):
        MoAConfig(proposer_models=[{"model": "openai/a", "api_base": ACCESS["api_base"]}])  # type: ignore[list-item]


@pytest.mark.parametrize("place", ["own", "brought", "inside", "ambient", "environment", "bearer", "looks like one"])
def test_a_failures_message_holds_no_secrets(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = dspy.LM("openai/x", api_key=SECRET, extra_headers={"X": SECRET})
    secret = "sk-proj-abcdefghijkl1234" if place == "looks like one" else SECRET
    program: Any = Raises(f"Authorization: Bearer {secret}" if place == "bearer" else f"Incorrect key {secret}")
    if place == "brought":
        program.answer.set_lm(keyed)
    elif place == "inside":
        program.inner = MoA(QA, [keyed], strategy="voting")
    elif place == "environment":
        monkeypatch.setenv("MY_API_KEY", SECRET)
    agent = Agent(keyed, program) if place == "own" else Agent(program=program, name="gives")
    with dspy.context(lm=keyed if place == "ambient" else None), pytest.raises(TooFewProposals) as caught:
        MoA(QA, [agent], strategy="voting", limits=Limits(min_proposals=1))(question="?")
    assert "***" in caught.value.failures[0].message
    assert secret not in str(caught.value) + caught.value.metadata.model_dump_json()


def test_a_saved_file_holds_none_and_keys_come_from_the_environment(tmp_path: Path) -> None:
    lm = dspy.LM("openai/a", temperature=0.5, **ACCESS)
    moa: Any = MoA(QA, [lm, Raises("", lm)], lm)
    moa.save(tmp_path / "moa.json")
    assert SECRET not in (tmp_path / "moa.json").read_text() and [a.lm for a in moa.agents] == [lm, None, lm]
    moa.load(tmp_path / "moa.json")
    assert [agent.lm for agent in moa.agents] == [lm, None, lm]
    MoA(QA, [dspy.LM("openai/a", api_key=SECRET, temperature=0.5)], strategy="voting").save(tmp_path / "own.json")
    back: Any = MoA.from_file(tmp_path / "own.json")
    assert back.agents[0].lm.kwargs["temperature"] == 0.5 and "api_key" not in back.agents[0].lm.kwargs
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        back(question="?")
