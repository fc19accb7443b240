"""Files of mixtures: what was saved comes back, here and in a process that has nothing but the file."""

import contextlib
import datetime
import decimal
import enum
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel, Field
from support.mixtures import QA
from support.saved import prompts_of, real, rewritten, state_in

from moa_dspy import Agent, Limits, MoA, MoAConfig, Selection, Strategy, Verdict, Voting

FORMAT_1 = Path(__file__).parents[1] / "data" / "moa_format_1.json"


class Mood(enum.Enum):
    GLAD = "glad"
    SAD = "sad"


class Item(BaseModel):
    """Something for sale."""

    name: str
    price: decimal.Decimal = Field(gt=0)
    since: datetime.date | None = None


class Task(dspy.Signature):
    """Read the note."""

    note: str = dspy.InputField(desc="as it came in")
    pages: int = dspy.InputField(default=1, ge=1)
    items: list[Item] = dspy.OutputField(desc="in order")
    mood: Mood = dspy.OutputField()
    lang: Literal["en", "de"] | None = dspy.OutputField(default="en")


class Longest(Strategy):
    name = "longest"

    def __init__(self, least: int = 1) -> None:
        super().__init__()
        self.least = least

    def decide(self, case: Any) -> Verdict:
        return Verdict(case.proposals[0].outputs)


class Outer(dspy.Module):
    """A program around a mixture."""

    def __init__(self, moa: MoA) -> None:
        super().__init__()
        self.inner = moa
        self.polish = dspy.Predict("answer -> polished")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "moa.json"


def react() -> dspy.Module:
    make: Any = dspy.ReAct
    return make(QA, tools=[])


def tuned() -> MoA:
    """A mixture with something in every corner."""
    moa = MoA(
        Task,
        [
            Agent("simulated/alice", name="ann", temperature=0.5, instructions="Be brief."),
            Agent("simulated/bob", instructions="Be thorough."),
        ],
        Agent("simulated/judge", max_tokens=900),
        Voting(["mood"], weights={"ann": 0.25}, tolerance=0.5),
        num_proposals_per_model=2,
        use_specialized_prompts=True,
        layers=2,
        limits=Limits(min_proposals=2, proposer_timeout=9, on_degraded="raise"),
    )
    for number, predictor in enumerate(moa.predictors()):
        told: Any = predictor.signature
        predictor.signature = told.with_instructions(f"Prompt {number}.\nDo it.")
        item = Item(name="tea", price=decimal.Decimal("1.50"), since=datetime.date(2024, 2, 29))
        demo = {"note": f"note {number}", "proposals": ["a", "b\n"], "items": [item], "mood": Mood.SAD, "lang": None}
        predictor.demos = [dspy.Example(**demo, augmented=True)]
    return moa


class TestFromFile:
    @pytest.mark.parametrize(
        "given", [{"signature": Task}, {"custom_types": {"Item": Item, "Mood": Mood}}], ids=["signature", "types"]
    )
    def test_all_comes_back(self, file: Path, given: Any) -> None:
        moa = tuned()
        moa.save(file)
        back: Any = MoA.from_file(file, **given)
        assert back.dump_state() == moa.dump_state()
        assert [(a.name, a.model, a.instructions, a.lm.kwargs) for a in back.agents] == [
            (a.name, a.model, a.instructions, a.lm.kwargs) for a in moa.agents if a.lm is not None
        ]
        assert (back.strategy.weights, back.limits, [p.samples for p in back.panels]) == (
            {"ann": 0.25},
            moa.limits,
            [2, 2],
        )
        assert prompts_of(back, note="n", pages=2) == prompts_of(moa, note="n", pages=2)

    def test_classes_of_ones_own_are_asked_for_in_a_sentence(self, file: Path) -> None:
        tuned().save(file)
        with pytest.raises(
            ValueError, match=r"moa\.json: .*\(Item, Mood\).*custom_types=\{'Item': Item, 'Mood': Mood\}"
        ):
            MoA.from_file(file)

    def test_a_class_of_its_own_is_made(self, file: Path) -> None:
        class Mine(MoA):
            pass

        real("a").save(file)
        assert type(Mine.from_file(file)) is Mine

    def test_lms_that_were_set_later(self, file: Path) -> None:
        moa = real("a", "b", layers=2)
        for agent, model in zip(moa.panels[1].agents, ("openai/a", "openai/new"), strict=True):
            agent.lm = dspy.LM(model, temperature=0.7)
        moa.save(file)
        models = ["openai/a", "openai/b", "openai/a", "openai/new", "openai/judge"]
        assert [agent.model for agent in MoA.from_file(file).agents] == models
        assert MoA.from_file(file).dump_state() == moa.dump_state()


class TestAsConfig:
    def test_a_saved_mixture_is_one(self, file: Path) -> None:
        MoA(
            QA,
            [Agent("openai/a", temperature=0.5, prices={"input": 1, "output": 2})],
            "openai/j",
            Selection(2),
            layers=2,
        ).save(file)
        config = MoAConfig.load(file)
        assert config.model_dump(exclude_none=True, exclude={"signature"}) == {
            "proposer_models": [
                {"model": "openai/a", "name": "a", "temperature": 0.5, "prices": {"input": 1, "output": 2}}
            ],
            "aggregator_model": {"model": "openai/j"},
            "num_proposals_per_model": 1,
            "aggregation_strategy": {"name": "selection", "rotations": 2},
            "use_specialized_prompts": False,
            "layers": 2,
            "limits": {"timeout": 600.0, "min_proposals": 1, "grace": 0.0, "on_degraded": "flag"},
        }
        assert MoA.from_config(None, config).dump_state() == MoA.from_file(file).dump_state()

    def test_has_the_name_of_its_own(self, file: Path) -> None:
        MoA.from_config(QA, MoAConfig(name="team", proposer_models=["openai/a"])).reset_copy().save(file)
        assert MoAConfig.load(file).name == MoA.from_file(file).config_name == "team"

    def test_with_its_prompts(self, file: Path) -> None:
        moa: Any = real("a")
        moa.predictors()[0].demos = [dspy.Example(question="q", answer="a")]
        moa.save(file)
        for back in (MoA.from_config(None, file), MoA.from_config(QA, str(file)), MoA.from_file(file)):
            assert back.dump_state() == moa.dump_state()
        with pytest.raises(
            ValueError, match=r"moa\.json: .*its inputs are \(question: str\) in the file and \(other: str\) here"
        ):
            MoA.from_config("other -> answer", file)


class TestFile:
    def test_is_strict_json_whatever_a_demo_holds(self, file: Path) -> None:
        moa = real("a")
        demo = {
            "ratio": float("nan"),
            "big": 2**70,
            "tags": {"x"},
            "day": datetime.date(2024, 2, 29),
            "opaque": object(),
        }
        moa.predictors()[0].demos = [dspy.Example(question="q", answer="a", **demo)]
        moa.save(file)

        def refuse(constant: str) -> None:
            raise AssertionError(constant)

        saved = json.loads(file.read_text(), parse_constant=refuse)["proposers.shared.predict"]["demos"][0]
        assert {name: saved[name] for name in ("ratio", "big", "tags", "day")} == {
            "ratio": None,
            "big": str(2**70),
            "tags": ["x"],
            "day": "2024-02-29",
        }

    @pytest.mark.parametrize("name", ["moa.json", "moa.pkl"])
    def test_is_replaced_at_once_or_not_at_all(self, tmp_path: Path, name: str) -> None:
        class Unwritable:
            def __reduce__(self) -> Any:
                raise TypeError("surrogates")

        moa, path = real("a"), tmp_path / name
        moa.save(path)
        before = path.read_bytes()
        moa.predictors()[0].demos = [dspy.Example(question="\ud800", answer=Unwritable())]
        with pytest.raises((RuntimeError, TypeError), match="surrogates"):
            moa.save(path)
        assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]

    def test_needs_its_folder(self, tmp_path: Path) -> None:
        (tmp_path / "taken.json").mkdir()
        for name, words in {
            "none/moa.json": "no folder .*none to save moa.json in",
            "taken.json": "is a folder",
        }.items():
            with pytest.raises((FileNotFoundError, ValueError), match=words):
                real("a").save(tmp_path / name)

    def test_can_be_named_as_one_likes(self, tmp_path: Path) -> None:
        moa = MoA(
            QA, [Agent("openai/a", instructions="Sé brève 漢字 😀\u2028")], "openai/j", use_specialized_prompts=True
        )
        moa.save(str(tmp_path / "ü 漢.json"))
        assert MoA.from_file(str(tmp_path / "ü 漢.json")).dump_state() == moa.dump_state()

    def test_that_lacks_what_dspy_freezes_says_so(self, file: Path) -> None:
        compiled: Any = react()
        compiled._compiled = True  # as optimizers do
        moa = MoA(QA, [Agent("openai/a", compiled, name="doer")], "openai/j")
        with pytest.warns(UserWarning, match=r"moa\.json lacks the prompts and demos of proposers\.doer\.program\."):
            moa.save(file)


class TestOtherFiles:
    def test_an_older_one_says_how_to_convert_it(self, file: Path) -> None:
        for load in (MoA.from_file, MoAConfig.load, real("a").load):
            with pytest.raises(
                ValueError, match=r"format_1\.json: .*format 1 \(by moa-dspy 0\.1\.0\).*To convert it, build"
            ):
                load(FORMAT_1)
        agents = [Agent("openai/x", name="ann"), Agent("openai/y", name="bob")]
        moa: Any = MoA(Task, agents, "openai/judge", "voting", layers=2, use_specialized_prompts=True)
        data = state_in(FORMAT_1)
        for name, part in moa.named_predictors():  # as it says
            part.load_state(data[name])
        moa.save(file)
        moa.load(file)
        assert moa.predictors()[0].signature.instructions == "Prompt 0.\nDo it."
        assert moa.predictors()[0].demos[0]["items"][0]["price"] == "1.50"

    def test_with_other_predictors_are_refused(self, file: Path) -> None:
        real("a", strategy="voting").save(file)
        with pytest.raises(
            ValueError, match=r"moa\.json: Of the file and this program, only one has aggregator\.program\."
        ):
            MoA(QA, ["openai/a"], strategy="voting").load(file)

    def test_of_another_program_are_refused_and_change_nothing(self, file: Path) -> None:
        real("a").save(file)
        moa = MoA(QA, [Agent("openai/a", react(), name="a")], "openai/judge")
        before = moa.dump_state()
        with pytest.raises(ValueError, match=r"moa\.json: .*nothing was loaded: .*none in the file and agent 'a' here"):
            moa.load(file)
        assert moa.dump_state() == before

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('{"inner.moa_dspy": {}, "metadata": {}}', "A program around a mixture is loaded by its own"),
            ('{"moa_dspy": 1}', "holds no mixture"),
            ("[1]", "holds a list where a mapping of settings belongs"),
            ('{"moa_dspy": {"format": 2, "version": "1"}}', "config: Field required"),
            ('{"moa_dspy": {"format": 3, "version": "9.9"}}', r"format 3 \(by moa-dspy 9\.9\).*Upgrade moa-dspy"),
        ],
    )
    def test_that_hold_none_are_refused_by_name(self, file: Path, text: str, words: str) -> None:
        file.write_text(text)
        for load in (MoA.from_file, real("a").load):
            with pytest.raises(ValueError, match=rf"moa\.json.*{words}"):
                load(file)

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("layers", 10**12, "layers: Input should be less than or equal to 100"),
            ("proposer_models", [{"model": "openai/a", "name": "forward"}], "proposer_models.0.name"),
            ("limits", {"min_proposals": 0}, "min_proposals"),
            ("aggregation_strategy", {"name": "voting", "weights": {"nobody": 1}}, "agent 'nobody'"),
            ("surprise", 1, "surprise: unknown key"),
        ],
    )
    def test_with_settings_that_there_are_not_are_refused(self, file: Path, key: str, value: Any, words: str) -> None:
        real("a", strategy="voting").save(file)
        block = state_in(file)["moa_dspy"]
        rewritten(file, {"moa_dspy": {**block, "config": {**block["config"], key: value}}})
        with pytest.raises(ValueError, match=rf"moa\.json: (?s:.*){words}"):
            MoA.from_file(file)

    @pytest.mark.parametrize("step", [31, pytest.param(1, marks=pytest.mark.slow)])
    def test_with_a_part_missing_or_of_another_type_load_or_are_refused_by_name(self, file: Path, step: int) -> None:
        def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
            for key in data if isinstance(data, dict) else range(len(data) if isinstance(data, list) else 0):
                yield from ((*path, key), *places(data[key], (*path, key)))

        (moa := real("a", "b")).save(file)
        state = {key: part for key, part in state_in(file).items() if key != "metadata"}
        for *path, last in list(places(state))[::step]:
            for value in [..., None, "x", dict[str, Any]()]:
                state = inside = state_in(file)
                for key in path:
                    inside = inside[key]
                inside[last] = value
                if value is ...:
                    del inside[last]
                file.with_name("broken.json").write_text(json.dumps(state))
                for load in (MoA.from_file, moa.deepcopy().load):
                    with contextlib.suppress(ValueError):
                        load(file.with_name("broken.json"))


class TestAroundAMixture:
    def test_a_program_saves_it_too(self, file: Path) -> None:
        outer = Outer(real("a", "b", strategy=Voting(weights={"b": 0.5})))
        outer.inner.agents[0].lm = dspy.LM("openai/new", temperature=0.3)
        outer.save(file)
        fresh: Any = Outer(real("a", "b", strategy="voting"))
        fresh.load(file)
        assert (fresh.inner.strategy.weights, fresh.inner.agents[0].model) == ({"b": 0.5}, "openai/new")
        assert fresh.inner.dump_state() == outer.inner.dump_state()

    def test_nested_ones_come_back(self, file: Path) -> None:
        def nested(weight: float) -> MoA:
            return MoA(
                QA, [Agent(program=real("a", strategy=Voting(weights={"a": weight})), name="inner")], strategy="voting"
            )

        nested(0.5).save(file)
        moa: Any = nested(2.0)
        moa.load(file)
        assert moa.proposers.inner.program.strategy.weights == {"a": 0.5}

    def test_lms_with_secrets_on_predictors_are_refused(self, tmp_path: Path) -> None:
        program = dspy.Predict(QA)
        program.set_lm(dspy.LM("openai/a", extra_headers={"X": "planted-s3cret"}))
        outer = Outer(MoA(QA, [Agent(program=program, name="own")], "openai/judge"))
        with pytest.raises(
            ValueError, match=r"LM of proposers\.own\.program as it is, with extra_headers\.X\. Give the LM"
        ):
            outer.save(tmp_path / "moa.json")
        assert [*tmp_path.iterdir()] == []
        outer.inner.save(tmp_path / "inner.json")
        assert "planted-s3cret" not in (tmp_path / "inner.json").read_text()

    def test_a_reset_copy_keeps_weights_and_lms(self) -> None:
        moa: Any = real("a", strategy=Voting(weights={"a": 0.5}))
        copied: Any = moa.reset_copy()
        assert copied.strategy.weights == {"a": 0.5} and copied.strategy is not moa.strategy
        assert all(mine.lm is its.lm for mine, its in zip(moa.agents, copied.agents, strict=True))
