"""LMs in files: no secret in them, live ones kept, others made again."""

from pathlib import Path
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, cast, mixture, says
from support.saved import in_new_process, real, rewritten, state_in

from moa_dspy import Agent, MoA
from moa_dspy.router import Deployment, RouterConfig, router_lm
from moa_dspy.saving.keyless import without_secrets
from moa_dspy.simulated import SimulatedLM, SimulatedModel

SECRET = "planted-" + "s3cret"
SECRETS: dict[str, Any] = {
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
LEFT_OUT = sorted(
    {*SECRETS, "extra_body.auth", "extra_body.sessions.cookie", "launch_kwargs.hf_token", "train_kwargs.wandb.api_key"}
    - {"extra_body", "launch_kwargs", "train_kwargs"}
)


class NoState:
    """An engine that cannot be saved."""

    def complete(self, request: Any) -> Any:
        raise NotImplementedError


class OwnLMs(dspy.Module):
    """A program that brings its LM."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        super().__init__()
        self.answer = dspy.Predict(QA)
        self.answer.set_lm(lm)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "moa.json"


def lm_of(file: Path, agent: str) -> Any:
    return state_in(file)[f"{agent}.bound"]


class TestSecrets:
    def test_none_is_in_the_file(self, file: Path) -> None:
        lm = dspy.LM("openai/a", temperature=0.5, max_tokens=9, prompt_cache_key="mine", **SECRETS)
        MoA(QA, [lm, OwnLMs(dspy.LM("openai/own", **SECRETS))], lm).save(file)
        assert SECRET not in file.read_text()
        assert lm_of(file, "aggregator") == {
            "lm": {
                "_dspy_lm_class": "dspy.clients.lm.LM",
                "model": "openai/a",
                "model_type": "chat",
                "cache": True,
                "num_retries": 3,
                "temperature": 0.5,
                "max_tokens": 9,
                "prompt_cache_key": "mine",
                "extra_body": {"sessions": [{}], "keep": 1},
                "train_kwargs": {"wandb": {}},
            },
            "left_out": LEFT_OUT,
        }

    @pytest.mark.parametrize("name", SECRETS)
    def test_each_is_left_out_by_itself(self, name: str) -> None:
        assert SECRET not in repr(without_secrets({name: SECRETS[name]}, dspy.LM("openai/a", api_key=SECRET))[0])

    def test_what_looks_like_one_is_left_out(self) -> None:
        assert without_secrets({"user": "sk-0123456789abcdef", "stop": ["x", "Bearer abcdef"]}) == (
            {"stop": ["x"]},
            ["user"],
        )

    @pytest.mark.parametrize("name", ["passphrase", "db_pwd", "jwt", "sas", "sig", "connection_string", "x-api-key"])
    def test_what_is_named_as_one_is_left_out(self, name: str) -> None:
        assert without_secrets({"extra_body": {name: "plain"}}) == ({"extra_body": {}}, [f"extra_body.{name}"])

    def test_numbers_are_none(self) -> None:
        settings = {"max_tokens": 9, "stop_token_ids": [1, 2], "design": "x", "signal": "y"}
        assert without_secrets(settings) == (settings, [])

    def test_what_the_environment_holds_is_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SHOP_PASSWORD", SECRET)
        assert without_secrets({"user": SECRET, "top_k": 3}) == ({"top_k": 3}, ["user"])

    def test_keys_come_from_the_environment(self, file: Path) -> None:
        MoA(QA, [dspy.LM("openai/a", api_key=SECRET)], strategy="voting").save(file)
        code = (
            "from moa_dspy import MoA\n"
            f"agent = MoA.from_file({str(file)!r}).agents[0]\n"
            "agent.check_key(); print(agent.lm.kwargs.get('api_key'))\n"
        )
        assert in_new_process(code, OPENAI_API_KEY="from-the-environment") == "None\n"

    def test_a_missing_key_is_told_before_a_call(self, file: Path) -> None:
        MoA(QA, [dspy.LM("openai/a", api_key=SECRET)], strategy="voting").save(file)
        with pytest.raises(ValueError, match="OPENAI_API_KEY"):
            MoA.from_file(file)(question="?")

    def test_what_else_is_missing_is_warned_of(self, file: Path) -> None:
        MoA(QA, [dspy.LM("openai/a", api_key=SECRET, extra_headers={"a": "b"})], strategy="voting").save(file)
        with pytest.warns(UserWarning, match=r"agent 'a' \(openai/a\) is made without extra_headers\. What"):
            MoA.from_file(file)


class TestLiveLMs:
    def test_stay_with_their_keys(self, file: Path) -> None:
        lm = dspy.LM("openai/a", **SECRETS)
        moa: Any = MoA(QA, [lm, OwnLMs(lm)], lm)
        moa.save(file)
        moa.load(file)
        assert [agent.lm for agent in moa.agents] == [lm, None, lm]
        assert moa.proposers.ownlms.program.answer.lm is lm

    def test_stay_whatever_else_was_left_out(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        moa: Any = MoA(QA, [dspy.LM("openai/a", user="my-own-name"), "openai/b"], strategy="voting")
        monkeypatch.setenv("MY_TOKEN", "my-own-name")  # so it is taken for a secret
        moa.save(file)
        monkeypatch.delenv("MY_TOKEN")
        lms = [agent.lm for agent in moa.agents]
        moa.load(file)
        assert all(agent.lm is lm for agent, lm in zip(moa.agents, lms, strict=True))

    def test_stay_whatever_their_address(self, file: Path) -> None:
        def moa(port: int) -> Any:
            return MoA(QA, [dspy.LM("openai/a", api_base=f"http://localhost:{port}")], strategy="voting")

        moa(1).save(file)
        other = moa(2)
        lm = other.proposers.a.lm
        other.load(file)
        assert other.proposers.a.lm is lm
        other.load(file, allow_unsafe_lm_state=True)
        assert other.proposers.a.lm.kwargs["api_base"] == "http://localhost:1"

    @pytest.mark.parametrize("changed", [{"temperature": 0.5}, {"model": "openai/b"}, {"num_retries": 0}], ids=str)
    def test_that_are_others_are_replaced(self, file: Path, changed: dict[str, Any]) -> None:
        saved: Any = real("a")
        saved.aggregator.lm = saved.aggregator.lm.copy(**changed)
        saved.save(file)
        moa: Any = real("a")
        proposer = moa.proposers.a.lm
        moa.load(file)
        assert moa.aggregator.lm.dump_state() == saved.aggregator.lm.dump_state()
        assert moa.proposers.a.lm is proposer

    def test_one_that_the_file_has_not_goes(self, file: Path) -> None:
        MoA(QA, ["openai/a"], strategy="voting").save(file)
        moa = MoA(QA, ["openai/a"], "openai/judge", "voting")
        moa.load(file)
        assert moa.aggregator.lm is None


class TestAddresses:
    def test_are_written_but_not_read_from_a_file_that_is_not_trusted(self, file: Path) -> None:
        addresses: dict[str, Any] = {
            "api_base": "http://localhost:1",
            "aws_bedrock_runtime_endpoint": "http://localhost:2",
        }
        MoA(QA, [dspy.LM("openai/a", user="me", **addresses)], strategy="voting").save(file)
        assert lm_of(file, "proposers.a")["lm"].items() >= addresses.items()
        words = r"without api_base, aws_bedrock_runtime_endpoint: .*allow_unsafe_lm_state=True"
        with pytest.warns(UserWarning, match=words):
            wary: Any = MoA.from_file(file)
        trusting: Any = MoA.from_file(file, allow_unsafe_lm_state=True)
        unset = {"temperature": None, "max_tokens": None, "user": "me"}
        assert [m.proposers.a.lm.kwargs for m in (wary, trusting)] == [unset, unset | addresses]

    def test_are_found_where_they_are_nested(self, file: Path) -> None:
        fallbacks = [{"model": "openai/b", "api_base": "http://localhost:1"}]
        MoA(QA, [dspy.LM("openai/a", fallbacks=fallbacks, user="me")], strategy="voting").save(file)
        with pytest.warns(UserWarning, match="made without fallbacks: a file could send"):
            moa: Any = MoA.from_file(file)
        assert moa.proposers.a.lm.kwargs == {"temperature": None, "max_tokens": None, "user": "me"}
        live: Any = MoA(
            QA, [dspy.LM("openai/a", fallbacks=[{"api_base": "http://localhost:2"}], user="me")], strategy="voting"
        )
        lm = live.proposers.a.lm
        live.load(file)
        assert live.proposers.a.lm is lm

    def test_nor_are_keys_that_somebody_wrote_into_the_file(self, file: Path) -> None:
        MoA(QA, [dspy.LM("openai/a", user="me")], strategy="voting").save(file)
        saved = lm_of(file, "proposers.a")
        rewritten(
            file, {"proposers.a.bound": {"lm": {**saved["lm"], "api_key": SECRET, "extra_body": {"key": SECRET}}}}
        )
        with pytest.warns(UserWarning, match="made without api_key, extra_body: a file could send your key and your"):
            moa: Any = MoA.from_file(file)
        assert moa.proposers.a.lm.kwargs == {"temperature": None, "max_tokens": None, "user": "me"}


class TestSimulatedModels:
    def test_are_saved_by_name(self, file: Path) -> None:
        MoA(QA, [Agent("simulated/alice", temperature=0.5)], strategy="voting").save(file)
        assert lm_of(file, "proposers.alice")["lm"] == {
            "model": "simulated/alice",
            "model_type": "chat",
            "cache": False,
            "num_retries": 3,
            "temperature": 0.5,
            "latency": 0.0,
        }

    def test_of_ones_own_are_saved_by_their_numbers(self, file: Path) -> None:
        profile = SimulatedModel("ace", skills={"geography": 1.0}, hints={"dates": {"count": 0.1}})
        MoA(QA, [SimulatedLM("ace", profile=profile, latency=0.01)], strategy="voting").save(file)
        back: Any = MoA.from_file(file)
        assert (back.proposers.ace.lm.engine.profile, back.proposers.ace.lm.engine.latency) == (profile, 0.01)
        assert back(question="What is the capital of Turkey?").answer == "Ankara"


class TestEnginesOfOnesOwn:
    def test_are_loaded_from_trusted_files_only(self, file: Path) -> None:
        moa = mixture(cast("a", "judge"))
        moa.save(file)
        with pytest.raises(ValueError, match=r"moa\.json: The LM of agent 'a' .*allow_unsafe_lm_state=True"):
            MoA.from_file(file)
        assert MoA.from_file(file, allow_unsafe_lm_state=True)(question="?").answer == "judge"

    def test_stay_where_they_are_alive(self, file: Path) -> None:
        lms = cast("a", "judge")
        moa = mixture(lms)
        moa.save(file)
        moa.load(file)
        assert [agent.lm for agent in moa.agents] == [*lms.values()]

    def test_are_not_taken_for_others_by_what_only_a_trusted_file_could_give(self, file: Path) -> None:
        mixture(cast("a", "judge")).save(file)
        moa = mixture(lms := cast("a", "judge"))
        moa.load(file)
        assert [agent.lm for agent in moa.agents] == [*lms.values()]

    def test_of_another_model_are_refused(self, file: Path) -> None:
        mixture(saved := cast("a", "judge")).save(file)
        moa = mixture({"a": saved["a"], "judge": FakeLM("other", says("other"))})
        with pytest.raises(ValueError, match=r"agent 'aggregator' .*allow_unsafe_lm_state=True"):
            moa.load(file)
        moa.load(file, allow_unsafe_lm_state=True)
        assert moa(question="?").answer == "judge"

    def test_that_cannot_be_saved_stay_too(self, file: Path) -> None:
        lm = dspy.LM("mine/a", engine=NoState())
        moa = MoA(QA, [lm], strategy="voting")
        moa.save(file)
        moa.load(file)
        assert moa.agents[0].lm is lm
        assert lm_of(file, "proposers.a")["lm"] == {"model": "mine/a"}

    def test_that_cannot_be_saved_cannot_be_made(self, file: Path) -> None:
        MoA(QA, [dspy.LM("mine/a", engine=NoState())], strategy="voting").save(file)
        with pytest.raises(ValueError, match=r"agent 'a' \(mine/a\) is not in the file: .*NoState.*use load\(\)"):
            MoA.from_file(file, allow_unsafe_lm_state=True)


def test_a_routers_deployments_keep_the_names_of_their_keys(file: Path) -> None:
    params = {"model": "openai/a", "api_key": "os.environ/FAST_KEY"}
    router = RouterConfig(model_list=[Deployment(model_name="fast", litellm_params=params)])
    MoA(QA, [router_lm("fast", router)], strategy="voting").save(file)
    back: Any = MoA.from_file(file, allow_unsafe_lm_state=True)
    assert back.proposers.fast.lm.engine.config == router


def test_mail_that_has_not_been_taken_is_saved_as_what_it_is(file: Path) -> None:
    moa = real("a", "b")
    moa.set_lm(dspy.LM("openai/new", api_key=SECRET, extra_headers={"a": SECRET}))
    moa.save(file)
    assert SECRET not in file.read_text()
    models = [lm_of(file, agent)["lm"]["model"] for agent in ("proposers.a", "proposers.b", "aggregator")]
    assert models == ["openai/new"] * 3


def test_an_lm_that_is_none_is_refused_by_its_agents_name(file: Path) -> None:
    real("a").save(file)
    rewritten(file, {"proposers.a.bound": {"lm": "openai/a"}})
    with pytest.raises(ValueError, match=r"moa\.json: .*proposers\.a\.bound\.lm"):
        MoA.from_file(file)


def test_a_fake_says_no_less_than_before() -> None:
    # Loading goes through DSPy's own way for engines.
    a = FakeLM("a", says("a"))
    assert type(a).load_state(a.dump_state(), allow_custom_lm_class=True).engine is a.engine
