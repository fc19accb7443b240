"""What is secret: by name, by looks, by whose it is; and that none leaves."""

import copy
import json
import pickle
import traceback
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dspy
import pytest
from support.mixtures import QA

from moa_dspy import Agent, MoA, MoAConfig, Panel, Strategy, Verdict
from moa_dspy.secrets import is_secret, mask, redact, secret_values, strip_lm, without_secrets
from moa_dspy.signatures import task_signature

SECRET = "planted-" + "s3cret-1234"
SETTINGS: dict[str, Any] = {
    "api_key": SECRET,
    "headers": {"X-Auth": SECRET},
    "extra_headers": {"Authorization": f"Bearer {SECRET}", "nested": {"deep": SECRET}},
    "aws_access_key_id": SECRET,
    "aws_secret_access_key": SECRET,
    "aws_session_token": SECRET,
    "azure_ad_token": SECRET,
    "azure_ad_token_provider": lambda: SECRET,
    "client_secret": SECRET,
    "vertex_credentials": {"private_key": SECRET},
    "api_base": f"https://me:{SECRET}@host/v1",
    "base_url": f"https://host/v1?api-key={SECRET}",
    "extra_body": {"auth": SECRET, "sessions": [{"cookie": SECRET}], "keep": 1},
    "echo": f"the key {SECRET} under another name",
    "launch_kwargs": {"hf_token": SECRET},
    "train_kwargs": {"wandb": {"api_key": SECRET}},
}


class Own(dspy.Module):
    """A program with LMs and settings of its own, where a user may put them."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        super().__init__()
        self.answer = dspy.Predict(QA, api_key=SECRET, headers={"X": SECRET}, user=SECRET, top_p=0.5)
        self.answer.set_lm(lm)
        self.lms = {"big": [lm]}


class Remote(Strategy):
    name = "remote"

    def __init__(self, api_key: str = "", url: str = "", rounds: int = 1) -> None:
        super().__init__()
        self.api_key, self.url, self.rounds = api_key, url, rounds

    def decide(self, case: Any) -> Verdict:
        return Verdict(case.proposals[0].outputs)


def keyed(**settings: Any) -> dspy.LM:
    lm = dspy.LM("openai/a", temperature=0.5, **{**SETTINGS, **settings})
    lm.history.append({"kwargs": {"headers": SECRET}})
    return lm


class TestByName:
    @pytest.mark.parametrize(
        "name",
        [
            *("api_key", "apiKey", "X-Api-Key", "openai_api_key", "api_keys", "aws_access_key_id", "key", "token"),
            *("azure_ad_token", "hf_token", "vertex_credentials", "client_secret", "password", "DB_PASS", "db_pwd"),
            *("Authorization", "cookie", "passphrase", "jwt", "sas", "sig", "connection_string", "extra_headers"),
        ],
    )
    def test_these_are(self, name: str) -> None:
        assert is_secret(name)

    @pytest.mark.parametrize(
        "name",
        [
            *("max_tokens", "max_completion_tokens", "stop_token_ids", "prompt_cache_key", "input_cost_per_token"),
            *("tokens", "eos_token", "design", "signal", "signature", "author", "keyword", "monkey", "model", "passes"),
        ],
    )
    def test_these_are_not(self, name: str) -> None:
        assert not is_secret(name)


class TestByLooks:
    @pytest.mark.parametrize(
        "secret",
        [
            *("sk-proj-abcdefghijkl1234", "sk-ant-api03-abcdefghijkl", "AIzaSyA-abcdefghijklmnop"),
            *("gsk_abcdefghijklmnop", "hf_abcdefghijklmnop", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIi"),
        ],
    )
    def test_keys_are_masked(self, secret: str) -> None:
        assert redact(f"Incorrect API key: {secret}, sorry") == "Incorrect API key: ***, sorry"

    def test_credentials_and_logins_are_masked(self) -> None:
        assert (
            mask("{'A': 'Bearer abc1', 'B': 'Basic dXNlcjpwYXNzd29yZA=='}", ())
            == "{'A': 'Bearer ***', 'B': 'Basic ***'}"
        )
        assert mask("https://me:pw@host/?token=abc&n=1", ()) == "https://***@host/?token=***&n=1"

    def test_the_rest_stays(self) -> None:
        text = (
            "Rate limit: 30000 tokens. key=value, sk, the bearer understands basic understanding; a@b.c; x://host/?n=1"
        )
        assert redact(text, dspy.LM("openai/x", max_tokens=30000)) == text


class TestByOwner:
    @pytest.mark.parametrize("name", ["api_key", "azure_ad_token", "headers", "extra_headers", "vertex_credentials"])
    def test_what_an_lm_holds_is_masked(self, name: str) -> None:
        lm = dspy.LM("openai/x", **{name: SETTINGS[name]})
        assert redact(f"refused {SECRET} and {SECRET}!", None, lm) == "refused *** and ***!"

    def test_what_the_environment_holds_is_masked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"ONE_API_KEY": "12345678", "KEY_TWO": "1234567890", "SHORT_KEY": "abc"}.items():
            monkeypatch.setenv(name, value)
        assert redact("abc 1234567890") == "abc ***"
        assert secret_values() == ["1234567890", "12345678"]


class TestWithoutSecrets:
    @pytest.mark.parametrize("name", SETTINGS)
    def test_each_is_left_out(self, name: str) -> None:
        kept, left_out = without_secrets({name: SETTINGS[name]}, dspy.LM("openai/a", api_key=SECRET))
        assert SECRET not in repr(kept) and [where.partition(".")[0] for where in left_out][:1] == [name]

    def test_numbers_and_references_stay(self) -> None:
        settings = {
            "max_tokens": 9,
            "token": 5,
            "api_key": "os.environ/MINE",
            "headers": {"X": "Bearer os.environ/MINE"},
        }
        assert without_secrets(settings) == (settings, [])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"api_key": SECRET}, r"0\.api_key\n.* holds it: api_key: os.environ/OPENAI_API_KEY\."),
        ({"headers": {"X": SECRET}}, r"0\.headers\.X\n.* holds it: X: os.environ/MY_X\."),
        ({"api_base": f"http://me:{SECRET}@host"}, r"Leave the login out of api_base, .*api_key: os.environ/MY_KEY"),
    ],
)
def test_a_secret_in_a_config_is_named_with_what_to_write(entry: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MoAConfig.model_validate({"proposer_models": [{"model": "openai/a", **entry}]})


@pytest.mark.parametrize("value", [SECRET, {"x": SECRET}, [SECRET]], ids=["text", "mapping", "list"])
def test_no_config_takes_a_secret_or_repeats_it(value: Any) -> None:
    deployment = {"model_name": "g", "litellm_params": {"model": "openai/a", "x": {"token": value}}}
    for place in (
        {"cookie": value},
        {"limits": {"extra_headers": value}},
        {"router": {"model_list": [deployment]}},
        {"aggregator_model": {"model": "openai/a", "aws_secret_access_key": value}},
        {"aggregation_strategy": {"name": "voting", "password": value}},
    ):
        with pytest.raises(ValueError, match="a config holds no secrets") as raised:
            MoAConfig.model_validate({"proposer_models": ["openai/a"], **place})
        assert SECRET not in "".join(traceback.format_exception(raised.value)) + repr(raised.value.errors())  # type: ignore[attr-defined]


class TestPickles:
    @pytest.mark.parametrize(
        "module",
        [
            lambda lm: Agent(lm, dspy.Predict(QA, api_key=SECRET)),
            lambda lm: Agent(program=Own(lm)),
            lambda lm: Panel(task_signature(QA), [Agent(lm)]),
            lambda lm: MoA(QA, [Agent(program=MoA(QA, [lm, Own(lm)], lm), name="inner"), lm], lm),
        ],
        ids=["agent", "program", "panel", "nested"],
    )
    def test_hold_no_secret(self, module: Any) -> None:
        data = cloudpickle.dumps(module(keyed()))
        assert SECRET.encode() not in data
        assert type(pickle.loads(data)) is type(module(keyed()))

    def test_of_a_whole_program_and_of_one_around_it(self, tmp_path: Path) -> None:
        class Outer(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = MoA(QA, [keyed(), Own(keyed())], keyed())

        for name, program in (("moa", Outer().inner), ("outer", Outer())):
            program.save(str(tmp_path / name), save_program=True)
            assert SECRET.encode() not in (tmp_path / name / "program.pkl").read_bytes()
        loaded: Any = dspy.load(str(tmp_path / "moa"), allow_pickle=True)
        assert loaded.proposers.own.program.answer.config == {"headers": {}, "top_p": 0.5}

    def test_keep_what_is_shared_shared(self) -> None:
        moa = pickle.loads(cloudpickle.dumps(MoA(QA, [lm := keyed(), lm], lm)))
        assert moa.agents[0].lm is moa.agents[1].lm is moa.agents[2].lm
        assert moa.proposers.a.program is moa.proposers.a_2.program is moa.proposers.shared

    @pytest.mark.parametrize(
        "copied", [copy.copy, copy.deepcopy, lambda moa: moa.deepcopy()], ids=["copy", "deep", "dspy"]
    )
    def test_copies_in_the_process_share_the_lms(self, copied: Any) -> None:
        lm = keyed()
        assert [agent.lm for agent in copied(MoA(QA, [lm, Own(lm)], lm)).agents] == [lm, None, lm]


def test_a_stripped_lm_has_what_is_no_secret() -> None:
    stripped = strip_lm(keyed(user="me"))
    assert SECRET not in repr(vars(stripped)) and stripped.history == []
    assert stripped.kwargs["user"] == "me" and stripped.kwargs["temperature"] == 0.5


def test_one_key_in_every_place_is_in_nothing_that_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    lm = keyed()
    moa: Any = MoA(
        QA, [lm, Own(lm), Agent("openai/b", api_key="os.environ/MY_TOKEN")], lm, Remote(SECRET, f"x://a:{SECRET}@h", 3)
    )
    moa.predictors()[0].lm = keyed()  # as set_lm does
    moa.save(tmp_path / "moa.json")
    moa.save(tmp_path / "moa.pkl")
    MoA(QA, [lm, Own(lm)], lm).save(tmp_path / "program", save_program=True)
    texts = [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    texts += [repr(moa), repr(moa.agents), json.dumps(moa.dump_state()), redact(repr(lm.kwargs), lm)]
    assert len(texts) == 8 and not [text for text in texts if SECRET in text]
    moa.load(tmp_path / "moa.json")
    assert (moa.strategy.api_key, moa.strategy.rounds, moa.agents[-1].lm) == (SECRET, 3, lm)
