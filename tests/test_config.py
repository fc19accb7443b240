"""A mixture as data: what a config takes, refuses and says; its files; presets; one call."""

import asyncio
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import dspy
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from support.mixtures import QA

from moa_dspy import Limits, MoA, MoAConfig, ModelConfig, Voting, arun_moa, run_moa
from moa_dspy.config import PRESETS, PresetName

ALICE, BOB, JUDGE = "simulated/alice", "simulated/bob", "simulated/judge"
DEPLOYMENT = {"model_name": "fast", "litellm_params": {"model": "openai/any", "api_key": "os.environ/FAST_KEY"}}
FULL = MoAConfig(
    name="my-mixture",
    signature="question -> answer: int",
    proposer_models=[
        ALICE,
        ModelConfig(
            model="openai/gpt-4o-mini",
            name="mini",
            temperature=0.5,
            max_tokens=500,
            instructions="Be\nbrief.",
            api_base="http://localhost:1/v1",
            num_retries=1,
            timeout=20,
            prices={"input": 0.15, "output": 0.6},
            top_p=0.9,
            seed=7,
            cache=False,
            api_key="os.environ/MINE",
            extra_headers={"X": "os.environ/MINE"},
        ),
        ModelConfig(model="router/fast", temperature=0.7),
    ],
    aggregator_model=ModelConfig(model=JUDGE, temperature=0.3),
    num_proposals_per_model=2,
    aggregation_strategy={"name": "voting", "weights": {"mini": 2}, "early_stop": True, "tolerance": 1e-6},
    use_specialized_prompts=True,
    layers=2,
    limits=Limits(min_proposals=3, proposer_timeout=30, on_degraded="raise"),
    router={"model_list": [DEPLOYMENT], "router_settings": {"num_retries": 1}},
)


def load(tmp_path: Path, text: str, name: str = "moa.yaml") -> MoAConfig:
    (tmp_path / name).write_text(text)
    return MoAConfig.load(tmp_path / name)


def options(lm: Any) -> dict[str, Any]:
    return {name: value for name, value in lm.kwargs.items() if value is not None and name != "metadata"}


def problems(**settings: Any) -> list[tuple[Any, str]]:
    with pytest.raises(ValidationError) as raised:
        MoAConfig(**{"proposer_models": [ALICE], **settings})
    return [(".".join(map(str, problem["loc"])), problem["msg"]) for problem in raised.value.errors()]


# What it makes.


def test_every_setting_arrives_in_the_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINE", "mine-1234")
    moa: Any = MoA.from_config(None, FULL)
    mini = {"temperature": 0.5, "max_tokens": 500, "api_base": "http://localhost:1/v1", "timeout": 20.0, "top_p": 0.9}
    mini |= {"seed": 7, "api_key": "mine-1234", "extra_headers": {"X": "mine-1234"}}
    layer = [
        ("alice", ALICE, {}, None),
        ("mini", "openai/gpt-4o-mini", mini, "Be\nbrief."),
        ("fast", "router/fast", {"temperature": 0.7}, None),
    ]
    assert [(a.name, a.model, options(a.lm), a.instructions) for a in moa.agents[:-1]] == layer * 2
    assert (moa.aggregator.model, options(moa.aggregator.lm)) == (JUDGE, {"temperature": 0.3})
    lm = moa.agents[1].lm
    assert (lm.num_retries, lm.cache, lm.prices.model_dump()) == (1, False, {"input": 0.15, "output": 0.6})
    assert (moa.strategy.weights, moa.strategy.tolerance) == ({"mini": 2}, 1e-6)
    assert ([panel.samples for panel in moa.panels], moa.limits) == ([2, 2], FULL.limits)
    assert moa.signature.output_fields["answer"].annotation is int


def test_one_file_is_enough_to_ask(tmp_path: Path) -> None:
    text = f"signature: question -> answer\nproposers: [{ALICE}, {BOB}]\naggregator: {JUDGE}\nstrategy: selection\n"
    config = load(tmp_path, text)
    assert (config.proposer_models, config.aggregator_model, config.aggregation_strategy) == (
        [ALICE, BOB],
        JUDGE,
        "selection",
    )
    for moa in (MoA.from_file(tmp_path / "moa.yaml"), MoA.from_config(None, str(tmp_path / "moa.yaml"))):
        assert moa(question="What is the capital of Turkey?").answer == "Ankara"


def test_a_signature_may_say_all_of_its_fields(tmp_path: Path) -> None:
    text = (
        "signature:\n  instructions: Rate the review.\n"
        "  inputs: {review: {desc: as it came in}, lang: {type: str, default: en}}\n"
        f"  outputs: {{stars: 'Annotated[int, Field(ge=-1, le=5)]', tags: 'list[str] | None'}}\nproposers: [{ALICE}]\n"
    )
    signature: Any = MoA.from_config(None, load(tmp_path, text)).signature
    fields = signature.fields
    assert signature.instructions == "Rate the review."
    assert fields["review"].json_schema_extra["desc"] == "as it came in" and fields["lang"].default == "en"
    assert (str(fields["stars"].metadata), fields["tags"].annotation) == ("[Ge(ge=-1), Le(le=5)]", list[str] | None)


def test_a_signature_of_ones_own_goes_before_the_configs() -> None:
    make: Any = dspy.Signature
    config = MoAConfig(signature=make("a -> b: float"), proposer_models=[ALICE])
    assert list(MoA.from_config(None, config).signature.fields) == ["a", "b"]
    assert list(MoA.from_config("c -> d", config).signature.fields) == ["c", "d"]
    with pytest.raises(ValueError, match="names no signature, so there is nothing to ask"):
        MoA.from_config(None, MoAConfig(proposer_models=[ALICE]))


def test_an_unset_key_is_named_at_the_call() -> None:
    models = [{"model": "openai/a", "api_key": "os.environ/ONE"}, {"model": "groq/b", "api_key": "os.environ/TWO"}]
    moa = MoA.from_config(QA, MoAConfig(proposer_models=models, aggregation_strategy="voting"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'a' \(openai/a\): ONE is not set; .*'b' \(groq/b\): TWO is not set"):
        moa(question="?")


# What it refuses.


@pytest.mark.parametrize(
    ("settings", "where", "what"),
    [
        ({"proposers": [ALICE]}, "proposers", "unknown key. Did you mean 'proposer_models'?"),
        ({"proposer_models": ALICE}, "proposer_models", "valid list"),
        ({"proposer_models": [3]}, "proposer_models.0", "a model is its name, such as openai/gpt-5-mini, or a mapping"),
        ({"proposer_models": [" "]}, "proposer_models.0", "cannot be empty or have spaces around it"),
        ({"proposer_models": [{"model": ALICE, "name": "two words"}]}, "proposer_models.0.name", "Python identifier"),
        (
            {"proposer_models": [{"model": ALICE, "temperature": float("nan")}]},
            "proposer_models.0.temperature",
            "finite",
        ),
        ({"proposer_models": [{"model": ALICE, "max_tokens": 1.5}]}, "proposer_models.0.max_tokens", "valid integer"),
        ({"proposer_models": [{"model": "openai/gpt-5", "temperature": 0.5}]}, "proposer_models.0", "temperature=1.0"),
        (
            {"proposer_models": [{"model": "router/g", "timeout": 3}]},
            "proposer_models.0",
            "router does not see timeout",
        ),
        (
            {"proposer_models": [{"model": "openai/a", "prices": {"input": 1}}]},
            "proposer_models.0.prices.output",
            "Field required",
        ),
        ({"name": "my mixture"}, "name", "should match pattern"),
        ({"layers": 10**12}, "layers", "less than or equal to 100"),
        ({"limits": 3}, "limits", "valid dictionary"),
        ({"aggregation_strategy": 3}, "aggregation_strategy", "a strategy is a name, or a mapping"),
        (
            {"aggregation_strategy": {"name": "selection", "rotations": "3"}},
            "aggregation_strategy",
            "rotations: Input should",
        ),
        (
            {"aggregation_strategy": {"name": "voting", "weights": {"a": "x"}}},
            "aggregation_strategy",
            "weights.a: Input",
        ),
        ({"signature": "question"}, "signature", "'question' is no signature. Write it as in"),
        ({"signature": {"inputs": {"a": "str"}, "output": {}}}, "signature", "unknown key 'output'"),
        ({"signature": {"inputs": {"a": "str"}}}, "signature", "`outputs` is a mapping of names to types"),
        ({"signature": "q -> a: list[int"}, "signature", "is no signature"),
        ({"router": {"model_list": []}}, "router", "a router needs its `model_list`"),
        ({"router": {"model_list": [{"model_name": "g"}]}}, "router", "router.model_list.0: a deployment has"),
    ],
)
def test_a_mistake_is_named_where_it_stands(settings: Any, where: str, what: str) -> None:
    [(path, message)] = problems(**settings)
    assert path == where and what in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"aggregator_model": {"model": JUDGE, "instructions": "Be fair."}},
            "aggregator's instructions would be ignored",
        ),
        ({"proposer_models": ["router/fast"]}, "'router/fast' names a group of a router"),
        (
            {"proposer_models": ["router/fats"], "router": {"model_list": [DEPLOYMENT]}},
            "no group 'fats'. Its groups: fast",
        ),
    ],
)
def test_what_makes_no_mixture_is_refused_by_the_mixture_and_names_the_file(
    tmp_path: Path, settings: Any, words: str
) -> None:
    config = MoAConfig(**{"proposer_models": [ALICE], **settings})
    with pytest.raises(ValueError, match=words):
        MoA.from_config(QA, config)
    config.save(tmp_path / "moa.yaml")
    with pytest.raises(ValueError, match=rf"moa\.yaml: .*{words}"):
        MoA.from_config(QA, tmp_path / "moa.yaml")


# Files.


def test_it_is_written_as_one_would_write_it() -> None:
    config = MoAConfig(proposer_models=[ALICE, ModelConfig(model=BOB, temperature=0.7)], aggregator_model=JUDGE)
    assert config.to_yaml() == (
        "proposer_models:\n- simulated/alice\n- model: simulated/bob\n  temperature: 0.7\n"
        "aggregator_model: simulated/judge\nnum_proposals_per_model: 1\naggregation_strategy: synthesis\n"
        "use_specialized_prompts: false\nlayers: 1\nlimits:\n"
        "  timeout: 600.0\n  min_proposals: 1\n  grace: 0.0\n  on_degraded: flag\n"
    )
    assert config.to_json().startswith('{\n  "proposer_models": [\n    "simulated/alice",\n')
    assert "instructions: |-\n    Be\n    brief.\n" in FULL.to_yaml()


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
numbers_as_texts = st.sampled_from(["1e-6", "1.0", "0x1", "null", "yes", "~", "2024-01-01", "- a", "a: b", "#"])
models = st.builds(
    ModelConfig,
    model=st.text("abz-.:/1e", min_size=1).map("openai/x{}".format),
    temperature=st.none() | st.floats(0.1, 2),
    max_tokens=st.none() | st.integers(1),
    instructions=st.none() | texts | numbers_as_texts,
)


@settings(deadline=None)
@given(proposers=st.lists(models, min_size=1, max_size=3), seconds=st.none() | st.floats(1e-9, 1e9))
def test_nothing_is_lost_in_a_file(proposers: list[str | ModelConfig], seconds: float | None) -> None:
    config = MoAConfig(proposer_models=proposers, use_specialized_prompts=True, limits=Limits(proposer_timeout=seconds))
    with TemporaryDirectory() as folder:
        for name in ("moa.yaml", "moa.json"):
            config.save(Path(folder, name))
            assert MoAConfig.load(Path(folder, name)) == config


def test_numbers_without_a_point_are_numbers(tmp_path: Path) -> None:
    config = load(
        tmp_path, f"proposers: [{ALICE}]\nstrategy: {{name: voting, tolerance: 1e-6, weights: {{alice: 2E3}}}}\n"
    )
    strategy: Any = MoA.from_config(QA, config).strategy
    assert isinstance(strategy, Voting) and (strategy.tolerance, strategy.weights) == (1e-6, {"alice": 2000.0})


LEVELS = "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)
MERGES = "".join(
    f"{new}: &{new}\n  <<: [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("moa.yaml", "layers: 2\nproposers: [a\n", "line 3: no valid YAML: expected ',' or ']'"),
        ("moa.yaml", "layers: !!python/name:os.system\n", "line 1: no valid YAML: could not determine a constructor"),
        (
            "moa.yaml",
            "layers: 1\nproposers: [x/a]\nlayers: 2\n",
            "line 3: no valid YAML: the key 'layers' is given twice",
        ),
        ("moa.yaml", f"a: &a [{', '.join('x' * 10)}]\n{LEVELS}", "line 4: .*more than a config can be"),
        ("moa.yaml", f"a: &a {{x: 1}}\n{MERGES}", "more than a config can be"),
        ("moa.yaml", "a: &a [*a]\n", "line 1: .*more than a config can be"),
        ("moa.yaml", "[" * 100_000, "no valid YAML: it is nested too deeply"),
        ("moa.yaml", "".join(f"k{n}: 1\n" for n in range(6_000)), "more than a config can be"),
        ("moa.yaml", "a: " + "x" * 2**20, "larger than any config"),
        ("moa.json", json.dumps({f"k{n}": 1 for n in range(2_000)}), "(?s)k0: unknown key.*and more: the first"),
        ("moa.yaml", "a: 1\n---\nb: 2\n", "line 2: no valid YAML: but found another document"),
        ("moa.json", '{"layers": 2,,}', "no valid JSON: .*line 1"),
        ("moa.json", '{"limits": {"strict": 1, "strict": 2}}', "no valid JSON: the key 'strict' is given twice"),
        ("moa.json", '{"layers": NaN}', "no valid JSON: NaN is no JSON"),
        ("moa.json", "[" * 100_000, "no valid JSON: it is nested too deeply"),
        ("moa.yaml", "layers: 2".encode("utf-16"), "this is not UTF-8"),
        ("moa.yaml", "proposers: [x/a]\nlimits:\n  strict: 3\n", "limits: strict is on_degraded="),
        ("moa.yaml", "", "holds nothing where a mapping of settings belongs"),
        ("moa.yaml", "- a\n", "holds a list"),
        ("moa.toml", "layers = 2", r"\.yaml, \.yml, \.json"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_a_sentence(
    tmp_path: Path, name: str, text: str | bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=words) as raised:
        MoAConfig.load(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name)) and len(str(raised.value)) < 3000


def test_what_is_no_file_is_said_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name, words in dict.fromkeys(("pipe", "folder"), "no file that can be read").items():
        with pytest.raises(ValueError, match=words):
            MoAConfig.load(tmp_path / f"{name}.yaml")
    with pytest.raises(FileNotFoundError, match=r"There is no file .*none\.yaml"):
        MoAConfig.load(tmp_path / "none.yaml")


def test_aliases_are_welcome(tmp_path: Path) -> None:
    assert load(tmp_path, f"proposers: [&m {ALICE}, *m]\naggregator: *m\n").aggregator_model == ALICE


# Presets.

CALLS = {"balanced": 4, "max_quality": 9, "budget": 4, "together_moa": 13, "moa_lite": 7, "self_moa": 7}


def test_presets_are_data_that_nobody_changes_for_another() -> None:
    assert {name: preset.calls for name, preset in PRESETS.items()} == CALLS
    assert [*PRESETS] == [*get_args(PresetName)] and all(preset.about.endswith(".") for preset in PRESETS.values())
    MoAConfig.preset("budget").proposer_models.clear()
    assert len(PRESETS["budget"].config.proposer_models) == 3
    with pytest.raises(
        ValueError, match=f"no preset 'balance'. Did you mean 'balanced'\\? Allowed: {', '.join(CALLS)}."
    ):
        MoAConfig.preset("balance")  # type: ignore[arg-type]


# One call.


def run_async(*arguments: Any) -> Any:
    return asyncio.run(arun_moa(*arguments))


both = pytest.mark.parametrize("run", [pytest.param(run_moa, id="sync"), pytest.param(run_async, id="async")])


@both
def test_one_call_asks_what_a_file_describes(run: Any, tmp_path: Path) -> None:
    text = f"signature: question -> answer\nproposers: [{ALICE}]\nstrategy: voting\n"
    (tmp_path / "moa.yaml").write_text(text)
    MoA.from_file(tmp_path / "moa.yaml").save(tmp_path / "tuned.json")
    for name in ("moa.yaml", "tuned.json"):
        assert run("What is the capital of Turkey?", "", str(tmp_path / name))[0].answer == "Ankara"
    with pytest.raises(ValueError, match="the system prompt would be ignored"):
        run("?", "Be brief.", tmp_path / "tuned.json")
    (tmp_path / "two.yaml").write_text(
        yaml.safe_dump({"signature": "a, b -> c", "proposers": [ALICE], "strategy": "voting"})
    )
    with pytest.raises(ValueError, match="takes a, b, and a query is one input"):
        run("?", "", tmp_path / "two.yaml")
