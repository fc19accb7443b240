"""LMs in files: no secret in them, live ones kept, others made again, nothing trusted that need not be."""

from pathlib import Path
from typing import Any, ClassVar

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, cast, mixture, says
from support.saved import real, rewritten, state_in

from moa_dspy import Agent, MoA, MoAConfig
from moa_dspy.models import as_lm
from moa_dspy.router import RouterEngine, router_lm

SECRET = "planted-" + "s3cret"


class NoState:
    """An engine that cannot be saved."""

    def complete(self, request: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "moa.json"


def vote(lm: Any) -> Any:
    return MoA(QA, [lm], strategy="voting")


def entry(file: Path) -> Any:
    return state_in(file)["moa_dspy"]["config"]["proposer_models"][0]


def settings(moa: Any) -> dict[str, Any]:
    return {name: value for name, value in moa.agents[0].lm.kwargs.items() if value is not None}


class TestWritten:
    def test_are_their_settings_without_what_is_usual(self, file: Path) -> None:
        lm = dspy.LM(
            "openai/a",
            temperature=0.5,
            prompt_cache_key="mine",
            engine="litellm",
            cache=False,
            user="me",
            api_key=SECRET,
        )
        vote(lm).save(file)
        assert SECRET not in file.read_text()
        assert entry(file) == {
            "name": "a",
            "model": "openai/a",
            "temperature": 0.5,
            "prompt_cache_key": "mine",
            "engine": "litellm",
            "cache": False,
            "user": "me",
        }
        assert state_in(file)["moa_dspy"]["left_out"] == {"proposers.a": ["api_key"]}

    def test_name_the_variables_that_hold_their_keys(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_KEY", SECRET)
        lm = Agent(
            "openai/a", api_key="os.environ/MY_KEY", extra_headers={"Authorization": f"Bearer {SECRET}", "X": "other"}
        )
        vote(lm).save(file)
        assert SECRET not in file.read_text() and "other" not in file.read_text()
        assert (entry(file)["api_key"], entry(file)["extra_headers"]) == (
            "os.environ/MY_KEY",
            {"Authorization": "Bearer os.environ/MY_KEY"},
        )
        with pytest.warns(UserWarning, match=r"LM of proposers\.a is made without extra_headers\.X"):
            assert settings(MoA.from_file(file))["api_key"] == SECRET

    def test_may_have_what_no_json_holds(self, file: Path) -> None:
        vote(dspy.LM("openai/a", user="me", azure_ad_token_provider=lambda: SECRET, hook=print)).save(file)
        assert entry(file) == {"name": "a", "model": "openai/a", "user": "me"}
        assert state_in(file)["moa_dspy"]["left_out"] == {"proposers.a": ["azure_ad_token_provider", "hook"]}


class TestLive:
    @pytest.mark.parametrize("is_own", [False, True], ids=["agent", "program"])
    def test_keep_their_keys_and_take_the_settings_of_the_file(self, file: Path, is_own: bool) -> None:
        def made(**options: Any) -> Any:
            lm = dspy.LM("openai/a", api_key=SECRET, extra_headers={"X": SECRET}, **options)
            program = dspy.Predict(QA)
            program.set_lm(lm)
            return vote(Agent(program=program, name="a") if is_own else lm)

        def lm(moa: Any) -> Any:
            return moa.agents[0].program.lm if is_own else moa.agents[0].lm

        saved = made(api_base="http://localhost:1", temperature=0.5, num_retries=0, extra_body={"user": "me"})
        saved.save(file)
        moa = made(api_base="http://localhost:2")
        moa.load(file)
        assert lm(moa).dump_state() == {**lm(saved).dump_state(), "api_base": "http://localhost:2"}
        assert lm(moa).kwargs["api_key"] == SECRET
        moa.load(file, allow_unsafe_lm_state=True)
        assert lm(moa).kwargs == lm(saved).kwargs
        same = lm(moa)
        moa.load(file)
        assert lm(moa) is same

    def test_of_other_models_are_replaced(self, file: Path) -> None:
        saved: Any = real("a")
        saved.aggregator.lm = dspy.LM("openai/trained", temperature=0.5)
        saved.save(file)
        moa: Any = real("a")
        proposer = moa.proposers.a.lm
        moa.load(file)
        assert moa.aggregator.lm.dump_state() == saved.aggregator.lm.dump_state() and moa.proposers.a.lm is proposer

    def test_one_that_the_file_has_not_goes(self, file: Path) -> None:
        MoA(QA, ["openai/a"], strategy="voting").save(file)
        moa: Any = MoA(QA, ["openai/a"], strategy="voting")
        moa.aggregator.lm = dspy.LM("openai/judge")
        moa.load(file)
        assert moa.aggregator.lm is None


class TestAddresses:
    OPTIONS: ClassVar[dict[str, Any]] = {
        "api_base": "http://localhost:1",
        "fallbacks": [{"model": "openai/b", "api_base": "http://localhost:2"}],
        "api_key": "os.environ/MY_KEY",
        "user": "me",
    }

    @pytest.fixture(autouse=True)
    def saved(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MY_KEY", SECRET)
        vote(as_lm("openai/a", **self.OPTIONS)).save(file)

    def test_are_not_taken_from_a_file_that_is_not_trusted_nor_are_the_keys_for_them(self, file: Path) -> None:
        words = r"LM of proposers\.a is made without api_base, fallbacks: .*allow_unsafe_lm_state=True"
        with pytest.warns(UserWarning, match=words):
            assert settings(MoA.from_file(file)) == {"user": "me"}

    def test_are_taken_from_one_that_is(self, file: Path) -> None:
        expected = {**self.OPTIONS, "api_key": SECRET}
        assert settings(MoA.from_file(file, allow_unsafe_lm_state=True)) == expected

    def test_are_taken_where_the_file_is_the_callers_config(self, file: Path) -> None:
        expected = {**self.OPTIONS, "api_key": SECRET}
        assert (
            settings(MoA.from_config(None, file)) == settings(MoA.from_config(None, MoAConfig.load(file))) == expected
        )

    def test_keys_that_somebody_wrote_into_the_file_are_refused(self, file: Path) -> None:
        block = state_in(file)["moa_dspy"]
        block["config"]["proposer_models"][0]["api_key"] = SECRET
        rewritten(file, {"moa_dspy": block})
        with pytest.raises(ValueError, match="a config holds no secrets") as raised:
            MoA.from_config(None, file)
        assert SECRET not in str(raised.value)


class TestEnginesOfOnesOwn:
    def test_are_loaded_from_trusted_files_only(self, file: Path) -> None:
        mixture(lms := cast("a", "judge")).save(file)
        for load in (MoA.from_file, lambda path: MoA.from_config(None, path)):
            with pytest.raises(ValueError, match=r"moa\.json: .*allow_unsafe_lm_state=True"):
                load(file)
        assert MoA.from_file(file, allow_unsafe_lm_state=True)(question="?").answer == "judge" and lms

    def test_import_nothing_before(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file.with_name("evil_module.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(file.parent)
        real("a").save(file)
        block = state_in(file)["moa_dspy"]
        engine = {"class": "evil_module:Evil", "state": {}}
        own_engine = {"_dspy_lm_class": "dspy.clients.lm.LM", "model": "x", "engine": engine}
        for state in ({"_dspy_lm_class": "evil_module.Evil", "model": "x"}, own_engine):
            block["config"]["proposer_models"][0]["lm_state"] = state
            rewritten(file, {"moa_dspy": block})
            for load in (MoA.from_file, MoAConfig.load, lambda path: MoA.from_config(None, path)):
                try:
                    load(file)
                except ValueError as told:
                    assert "Refusing to import" in str(told)
            with pytest.raises(SystemExit, match="imported"):
                MoA.from_file(file, allow_unsafe_lm_state=True)

    def test_stay_where_they_are_alive(self, file: Path) -> None:
        mixture(cast("a", "judge")).save(file)
        moa = mixture(lms := cast("a", "judge"))
        moa.load(file)
        assert [agent.lm for agent in moa.agents] == [*lms.values()]

    def test_of_another_model_are_refused(self, file: Path) -> None:
        mixture(saved := cast("a", "judge")).save(file)
        moa = mixture({"a": saved["a"], "judge": FakeLM("other", says("other"))})
        with pytest.raises(ValueError, match=r"allow_unsafe_lm_state=True"):
            moa.load(file)
        moa.load(file, allow_unsafe_lm_state=True)
        assert moa(question="?").answer == "judge"

    def test_that_cannot_be_saved_stay_and_cannot_be_made(self, file: Path) -> None:
        moa = vote(lm := dspy.LM("mine/a", engine=NoState()))
        moa.save(file)
        moa.load(file)
        assert moa.agents[0].lm is lm
        with pytest.raises(ValueError, match=r"LM of proposers\.a cannot be saved: .*NoState.*use load\(\)"):
            MoA.from_file(file, allow_unsafe_lm_state=True)


def test_a_router_is_saved_with_the_names_of_its_keys(file: Path) -> None:
    router = {
        "model_list": [
            {"model_name": "fast", "litellm_params": {"model": "openai/a", "api_key": "os.environ/FAST_KEY"}}
        ]
    }
    engine = RouterEngine(router)
    MoA(QA, [router_lm("fast", engine, temperature=0.3), router_lm("fast", engine)], router_lm("fast", engine)).save(
        file
    )
    assert MoAConfig.load(file).router == router
    assert entry(file) == {"model": "router/fast", "name": "fast", "temperature": 0.3}
    with pytest.raises(ValueError, match=r"names a router, .*allow_unsafe_lm_state=True"):
        MoA.from_file(file)
    for back in (MoA.from_file(file, allow_unsafe_lm_state=True), MoA.from_config(None, file)):
        lms: list[Any] = [agent.lm for agent in back.agents]
        assert lms[0].engine.config == router and lms[0].engine is lms[1].engine is lms[2].engine
