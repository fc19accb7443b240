"""Files of mixtures: what was saved comes back, here and in a process that has nothing but the file."""

import datetime
import decimal
import enum
import json
import re
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel, Field
from support.fake_lm import FakeLM
from support.mixtures import QA, cast, mixture, says
from support.saved import in_new_process, prompts_of, real, rewritten, state_in

from moa_dspy import Agent, Fusion, Limits, MoA, Selection, Strategy, Verdict, Voting


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


def react(instructions: str = "Look it up.") -> dspy.Module:
    make: Any = dspy.Signature
    return dspy.ReAct(make(QA, instructions), tools=[])


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


def within(part: Any, whole: Any) -> Any:
    """What of the whole has a place in the part, but for versions."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return {key: part[key] if key == "version" else within(part[key], whole.get(key)) for key in part}
    return whole


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "moa.json"


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
        limits=Limits(min_proposals=2, proposer_timeout=9, strict=True),
    )
    for number, predictor in enumerate(moa.predictors()):
        signature: Any = predictor.signature
        predictor.signature = signature.with_instructions(f"Prompt {number}.\nDo it.")
        predictor.demos = [
            dspy.Example(
                note=f"note {number}",
                proposals=["««« a »»»", "««« b\n»»»"],
                items=[Item(name="tea", price=decimal.Decimal("1.50"), since=datetime.date(2024, 2, 29))],
                mood=Mood.SAD,
                lang=None,
                augmented=True,
            )
        ]
    return moa


class TestFromFile:
    def test_all_comes_back(self, file: Path) -> None:
        moa = tuned()
        moa.save(file)
        back = MoA.from_file(file)
        assert back.dump_state() == moa.dump_state()
        assert [(agent.name, agent.model, agent.instructions) for agent in back.agents] == [
            (agent.name, agent.model, agent.instructions) for agent in moa.agents
        ]
        assert [agent.lm.kwargs for agent in back.agents if agent.lm] == [a.lm.kwargs for a in moa.agents if a.lm]
        assert vars(back.strategy)["weights"] == {"ann": 0.25}
        assert (back.limits, [(p.samples, p.limits) for p in back.panels]) == (moa.limits, [(2, moa.limits)] * 2)

    def test_prompts_are_the_same(self, file: Path) -> None:
        moa = tuned()
        moa.save(file)
        inputs = {"note": "n", "pages": 2}
        assert prompts_of(MoA.from_file(file), **inputs) == prompts_of(moa, **inputs)

    def test_in_a_new_process(self, file: Path) -> None:
        moa = MoA(
            "question -> answer: int", ["simulated/alice", "simulated/bob"], "simulated/judge", Selection(rotations=2)
        )
        moa.predictors()[0].demos = [dspy.Example(question="What is 2 + 2?", answer=4)]
        moa.save(file)
        code = (
            "from moa_dspy import MoA\n"
            f"moa = MoA.from_file({str(file)!r})\n"
            f"moa.save({str(file.with_name('again.json'))!r})\n"
            "pred = moa(question='What is 17 * 23?')\n"
            "print(repr(pred.answer), pred.metadata.usage.calls)\n"
        )
        pred = moa(question="What is 17 * 23?")
        assert in_new_process(code) == f"{pred.answer!r} {pred.metadata.usage.calls}\n"
        assert file.with_name("again.json").read_bytes() == file.read_bytes()

    def test_a_class_of_its_own_is_made(self, file: Path) -> None:
        class Mine(MoA):
            pass

        real("a").save(file)
        assert type(Mine.from_file(file)) is Mine

    def test_own_classes_are_used_for_types(self, file: Path) -> None:
        moa = tuned()
        moa.save(file)
        back = MoA.from_file(file, custom_types={"Item": Item, "Mood": Mood})
        assert {name: field.annotation for name, field in back.signature.fields.items()} == {
            name: field.annotation for name, field in Task.fields.items()
        }
        assert back.predictors()[0].demos[0]["items"] == moa.predictors()[0].demos[0]["items"]

    @pytest.mark.parametrize("strategy", ["synthesis", "selection", "voting", "fusion", Fusion(), Selection(3)])
    def test_every_strategy(self, file: Path, strategy: Any) -> None:
        moa = real("a", "b", strategy=strategy)
        moa.save(file)
        assert MoA.from_file(file).dump_state() == moa.dump_state()
        options = state_in(file)["moa_dspy"]["strategy"].get("options", {})
        assert options == {name: value for name, value in vars(moa.strategy).items() if name in options}
        assert "callbacks" not in options

    def test_without_an_aggregator(self, file: Path) -> None:
        MoA(QA, ["openai/a"], strategy="voting").save(file)
        assert MoA.from_file(file).aggregator.lm is None

    def test_an_lm_that_was_set_later(self, file: Path) -> None:
        moa = real("a", "b", layers=2)
        moa.panels[1].set_lm(dspy.LM("openai/new", temperature=0.3))
        moa.save(file)
        models = ["openai/a", "openai/b", "openai/new", "openai/new", "openai/judge"]
        assert [agent.model for agent in moa.agents] == [a.model for a in MoA.from_file(file).agents] == models

    def test_a_sample_that_was_asked_for(self, file: Path) -> None:
        moa = real("a")
        moa.set_lm(dspy.LM("openai/x", rollout_id=7, temperature=1.0))
        moa.save(file)
        assert MoA.from_file(file).aggregator._rollout == moa.aggregator._rollout is not None

    def test_a_program_of_ones_own_is_refused(self, file: Path) -> None:
        MoA(QA, ["openai/a", Agent("openai/b", react(), name="doer")], "openai/j").save(file)
        with pytest.raises(ValueError, match=r"moa\.json: .*agent 'doer' runs a program.*react:ReAct.*use load\(\)"):
            MoA.from_file(file)

    def test_a_strategy_of_ones_own_is_refused(self, file: Path) -> None:
        real("a", strategy=Longest()).save(file)
        with pytest.raises(ValueError, match=r"'longest' is one of its own \(.*:Longest\).*use load\(\)"):
            MoA.from_file(file)


class TestFile:
    def test_two_saves_are_one(self, file: Path) -> None:
        tuned().save(file)
        tuned().save(file.with_name("other.json"))
        assert file.read_bytes() == file.with_name("other.json").read_bytes()

    def test_is_what_an_earlier_version_wrote(self) -> None:
        # Written by the version that introduced the format. If this fails, the format needs a new number.
        path = Path(__file__).parents[1] / "data" / "moa_format_1.json"
        saved = {name: part for name, part in state_in(path).items() if name != "metadata"}
        assert within(saved, MoA.from_file(path).dump_state()) == saved

    def test_stays_if_saving_fails(self, file: Path) -> None:
        moa = real("a")
        moa.save(file)
        before = file.read_bytes()
        moa.predictors()[0].demos = [dspy.Example(question="no UTF-8: \ud800", answer="a")]
        with pytest.raises(RuntimeError, match="surrogates not allowed"):
            moa.save(file)
        assert file.read_bytes() == before
        assert [path.name for path in file.parent.iterdir()] == ["moa.json"]

    def test_is_replaced_at_once_and_never_written_into(self, file: Path) -> None:
        real("a").save(file)
        before, same = file.read_bytes(), file.with_name("same.json")
        same.hardlink_to(file)
        real("b").save(file)
        assert same.read_bytes() == before != file.read_bytes()

    def test_stays_if_pickling_fails(self, file: Path) -> None:
        class Unpicklable:
            def __reduce__(self) -> Any:
                raise TypeError("open")

        moa, path = real("a"), file.with_suffix(".pkl")
        moa.save(path)
        before = path.read_bytes()
        moa.predictors()[0].demos = [dspy.Example(question="q", answer=Unpicklable())]
        with pytest.raises(TypeError, match="open"):
            moa.save(path)
        assert path.read_bytes() == before and [*file.parent.iterdir()] == [path]

    def test_changes_where_the_prompt_does(self, file: Path) -> None:
        moa: Any = real("a")
        moa.save(file)
        before = file.read_text().splitlines()
        predictor = moa.predictors()[0]
        predictor.signature = predictor.signature.with_instructions("New.")
        moa.save(file)
        after = file.read_text().splitlines()
        assert [line.strip() for old, line in zip(before, after, strict=True) if old != line] == [
            '"instructions": "New.",'
        ]

    def test_can_be_named_as_one_likes(self, tmp_path: Path) -> None:
        moa = MoA(
            QA, [Agent("openai/a", instructions="Sé brève 漢字 😀\u2028")], "openai/j", use_specialized_prompts=True
        )
        moa.save(str(tmp_path / "ü 漢.json"))
        assert MoA.from_file(str(tmp_path / "ü 漢.json")).dump_state() == moa.dump_state()

    def test_needs_a_folder(self, file: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"no folder .*missing to save moa\.json in"):
            real("a").save(file.parent / "missing" / "moa.json")

    @pytest.mark.parametrize("name", ["moa.json", "moa.pkl"])
    def test_that_lacks_what_dspy_freezes_says_so(self, tmp_path: Path, name: str) -> None:
        compiled = react()
        compiled._compiled = True  # as optimizers do
        moa = MoA(QA, [Agent("openai/a", compiled, name="doer")], "openai/j")
        with pytest.warns(UserWarning, match=rf"{name} lacks the prompts and demos of proposers\.doer\.program: "):
            moa.save(tmp_path / name)

    def test_of_a_newer_format_is_refused(self, file: Path) -> None:
        real("a").save(file)
        rewritten(file, {"moa_dspy": {"format": 2, "version": "9.9"}})
        for load in (MoA.from_file, real("a").load):
            with pytest.raises(ValueError, match=r"moa\.json: .*format 2 \(by moa-dspy 9\.9\).*Upgrade moa-dspy"):
                load(file)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "no JSON"),
            ('{"moa_dspy": {"for', "no JSON, or not all of it"),
            ("\udcff", "no JSON"),
            ("[1]", "holds no mixture: MoA.save writes one"),
            ('{"predict": {"demos": []}, "metadata": {}}', "holds no mixture"),
            ('{"inner.moa_dspy": {}, "metadata": {}}', r"a program around a mixture \(inner\)"),
            ('{"moa_dspy": 1}', "no saved mixture: moa_dspy: Input should be"),
            ('{"moa_dspy": {"format": 1}}', r"moa_dspy\.version: Field required"),
        ],
        ids=["empty", "cut off", "bytes", "list", "a predictor's", "an outer program's", "number", "lacking"],
    )
    def test_that_is_none_is_refused_by_name(self, file: Path, text: str, words: str) -> None:
        file.write_bytes(text.encode(errors="surrogateescape"))
        for load in (MoA.from_file, real("a").load):
            with pytest.raises(ValueError, match=rf"moa\.json: .*{words}"):
                load(file)

    @pytest.mark.parametrize(
        ("metadata", "words"),
        [
            (None, "metadata is missing"),
            ({"dependency_versions": 5}, "metadata is missing"),
            ({"dependency_versions": {"dspy": "9", "rust": "2"}}, "another version of DSPy, .* of rust too"),
        ],
        ids=str,
    )
    def test_of_which_dspy_cannot_compare_the_versions_is_refused(self, file: Path, metadata: Any, words: str) -> None:
        real("a").save(file)
        rewritten(file, {"metadata": metadata})
        for load in (MoA.from_file, real("a").load):
            with pytest.raises(ValueError, match=rf"moa\.json: .*{words}"):
                load(file)

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("layers", 0, r"moa_dspy\.layers"),
            ("layers", 10**12, r"it has 1000000000000 layers, but no layer_1000000000000\.a\.bound"),
            ("proposers", [], r"moa_dspy\.proposers"),
            ("limits", {"min_proposals": 0}, "min_proposals"),
            ("strategy", {"name": "voting", "options": {"weights": {"nobody": 1}}}, "agent 'nobody'"),
            ("strategy", {"name": "voting", "options": {"unknown": 1}}, "unknown"),
            ("proposers", [{"name": "forward"}], r"proposers\.forward"),
            ("surprise", 1, r"moa_dspy\.surprise: Extra inputs"),
        ],
    )
    def test_with_settings_that_there_are_not_is_refused(self, file: Path, key: str, value: Any, words: str) -> None:
        real("a", strategy="voting").save(file)
        rewritten(file, {"moa_dspy": {**state_in(file)["moa_dspy"], key: value}})
        with pytest.raises(ValueError, match=rf"moa\.json: [\s\S]*{words}"):
            MoA.from_file(file)

    def test_imports_nothing_that_it_names(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file.with_name("evil_module.py").write_text("raise SystemExit('imported')")
        monkeypatch.syspath_prepend(file.parent)
        tuned().save(file)
        file.write_text(re.sub(r'("class": )"[^"]*"', r'\1"evil_module:Evil"', file.read_text()))
        assert MoA.from_file(file).signature.fields.keys() == Task.fields.keys()
        with pytest.raises(SystemExit, match="imported"):
            MoA.from_file(file, allow_unsafe_lm_state=True)
        real("a").save(file)
        for path in ("evil_module.Evil", "evil_module:Evil"):
            rewritten(file, {"proposers.a.bound": {"lm": {"_dspy_lm_class": path, "model": "openai/a"}}})
            with pytest.raises(ValueError, match=r"moa\.json: .*Refusing to import custom serialized LM class"):
                MoA.from_file(file)

    def test_that_is_missing(self, file: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"moa\.json"):
            MoA.from_file(file)

    def test_that_is_a_folder(self, file: Path) -> None:
        with pytest.raises(ValueError, match=r"save_program=True.*dspy\.load"):
            MoA.from_file(file.parent)

    def test_has_keys_that_mlflow_takes_for_parameters(self) -> None:
        def keys(part: Any) -> Any:
            for key, value in (
                part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
            ):
                yield str(key)
                yield from keys(value)

        assert [key for key in keys(tuned().dump_state()) if not re.fullmatch(r"[\w.\- :/]+", key)] == []

    @pytest.mark.parametrize("value", [{1: "a"}, {"b"}, b"x", decimal.Decimal("1.5"), float("nan"), object], ids=repr)
    def test_takes_demos_that_are_no_json(self, file: Path, value: Any) -> None:
        moa = real("a")
        moa.predictors()[0].demos = [dspy.Example(question="q", answer=value)]
        moa.save(file)
        moa.load(file)
        assert json.loads(file.read_text())


class TestLoad:
    def test_into_the_same_shape(self, file: Path) -> None:
        moa = tuned()
        moa.save(file)
        other = MoA(
            Task,
            [Agent("simulated/carol", name="ann"), Agent("simulated/dave", name="bob")],
            "simulated/alice",
            "voting",
            use_specialized_prompts=True,
            layers=2,
        )
        other.load(file)
        assert prompts_of(other, note="n", pages=2) == prompts_of(moa, note="n", pages=2)
        # What the mixture was built with stays: here, that the proposers have no instructions of their own.
        assert [agent.model for agent in other.agents] == [agent.model for agent in moa.agents]
        assert other.dump_state()["moa_dspy"]["strategy"] == moa.dump_state()["moa_dspy"]["strategy"]
        assert (other.limits, [panel.samples for panel in other.panels]) == (moa.limits, [2, 2])

    def test_typed_demos_are_typed_again(self, file: Path) -> None:
        moa = tuned()
        moa.save(file)
        moa.load(file)
        assert moa.predictors()[0].demos == [dict(tuned().predictors()[0].demos[0])]

    @pytest.mark.parametrize("raw", ["042", " 4", 4.0, "4", True, None])
    def test_a_demo_is_not_typed_where_the_prompt_would_change(self, file: Path, raw: Any) -> None:
        moa = MoA("question -> answer: int", ["openai/a"], strategy="voting")
        moa.predictors()[0].demos = [dspy.Example(question="q", answer=raw)]
        before = prompts_of(moa, question="q")
        moa.save(file)
        moa.load(file)
        assert prompts_of(moa, question="q") == before

    @pytest.mark.parametrize(
        ("other", "words"),
        [
            (lambda: real("a"), "only the file has the proposer b"),
            (lambda: real("a", "b", "c"), "only this program has the proposer c"),
            (lambda: real("a", "b", layers=2), "layers is 1 in the file and 2 here"),
            (lambda: real("a", "b", strategy="fusion"), "the strategy is synthesis in the file and fusion here"),
            (
                lambda: real("a", "b", use_specialized_prompts=True),
                "use_specialized_prompts is False in the file and True here",
            ),
            (
                lambda: MoA("question -> answer: int", ["openai/a", "openai/b"], "openai/judge"),
                "the file has output answer: str, this program output answer: int",
            ),
            (
                lambda: MoA("query -> answer", ["openai/a", "openai/b"], "openai/judge"),
                "only the file has the field input question: str; only this program has the field input query: str",
            ),
            (
                lambda: MoA(QA, ["openai/a", Agent("openai/b", dspy.Predict(QA))], "openai/judge"),
                r"only in this program does b run a program of its own \(dspy.predict.predict:Predict\)",
            ),
        ],
    )
    def test_into_another_shape_is_refused_in_words(self, file: Path, other: Any, words: str) -> None:
        real("a", "b").save(file)
        moa = other()
        before = moa.dump_state()
        with pytest.raises(ValueError, match=rf"moa\.json: .*nothing was loaded: .*{words}"):
            moa.load(file)
        assert moa.dump_state() == before

    def test_into_other_predictors_is_refused_in_words(self, file: Path) -> None:
        MoA(QA, [Agent("openai/a", react(), name="doer")], "openai/j").save(file)
        moa = MoA(QA, [Agent("openai/a", dspy.Predict(QA), name="doer")], "openai/j")
        with pytest.raises(ValueError, match=r"Only the file has: .*\.react.*only this program has: .*doer\.program"):
            moa.load(file)

    def test_a_broken_part_changes_nothing(self, file: Path) -> None:
        moa: Any = real("a", strategy="voting")
        moa.save(file)
        moa.strategy.weights = {"a": 3.0}
        before = moa.dump_state()
        rewritten(file, {"aggregator.bound": {"lm": {"model": 5}}})
        with pytest.raises(ValueError, match=r"moa\.json: .*agent 'aggregator'"):
            moa.load(file)
        assert moa.dump_state() == before

    def test_weights_of_nobody_are_refused(self, file: Path) -> None:
        moa: Any = real("a", strategy="voting")
        moa.save(file)
        block = state_in(file)["moa_dspy"]
        block["strategy"]["options"]["weights"] = {"nobody": 1.0}
        rewritten(file, {"moa_dspy": block})
        with pytest.raises(ValueError, match=r"moa\.json: .*agent 'nobody'"):
            moa.load(file)
        assert moa.strategy.weights == {}

    def test_programs_of_ones_own(self, file: Path) -> None:
        def moa(docs: str) -> Any:
            program = react(docs)
            return MoA(QA, [Agent("openai/a", program, name="doer")], strategy=Longest(len(docs)))

        moa("Look it up.").save(file)
        other = moa("")
        other.load(file)
        inputs = {"question": "q", "trajectory": ""}
        assert prompts_of(other, **inputs) == prompts_of(moa("Look it up."), **inputs)
        assert other.strategy.least == 11

    def test_a_mixture_in_a_mixture(self, file: Path) -> None:
        def moa(weight: float) -> Any:
            few = real("a", "b", strategy=Voting(weights={"a": weight}))
            return MoA(QA, [Agent(program=few, name="few")], "openai/j")

        moa(0.5).save(file)
        other = moa(1.0)
        other.load(file)
        assert other.proposers.few.program.strategy.weights == {"a": 0.5}

    def test_pickled_state(self, file: Path) -> None:
        moa, path = tuned(), file.with_suffix(".pkl")
        moa.save(path)
        other: Any = tuned()
        other.strategy.weights = {}
        other.load(path, allow_pickle=True)
        assert other.predictors()[0].demos == moa.predictors()[0].demos
        assert other.dump_state() == moa.dump_state()


class TestOuterProgram:
    def test_carries_the_mixture(self, file: Path) -> None:
        moa: Any = real("a", "b", strategy=Voting(weights={"a": 0.5}))
        moa.proposers.a.lm = dspy.LM("openai/new", temperature=0.3)
        Outer(moa).save(file)
        outer = Outer(real("a", "b", strategy="voting"))
        outer.load(file)
        assert outer.dump_state() == Outer(moa).dump_state()
        assert outer.inner.strategy.weights == {"a": 0.5}
        assert [agent.model for agent in outer.inner.agents] == ["openai/new", "openai/b", "openai/judge"]

    def test_refuses_another_shape_and_changes_nothing(self, file: Path) -> None:
        Outer(real("a", "b")).save(file)
        outer = Outer(real("a"))
        before = outer.dump_state()
        with pytest.raises(ValueError, match="only the file has the proposer b"):
            outer.load(file)
        assert outer.dump_state() == before

    def test_tells_the_mixture_whether_the_file_is_trusted(self, file: Path) -> None:
        moa = real("a")
        moa.aggregator.lm = dspy.LM("openai/local", api_base="http://localhost:1")
        Outer(moa).save(file)
        trusting, wary = Outer(real("a")), Outer(real("a"))
        trusting.load(file, allow_unsafe_lm_state=True)
        with pytest.warns(UserWarning, match="api_base"):
            wary.load(file)
        lms: list[Any] = [outer.inner.aggregator.lm for outer in (trusting, wary)]
        assert [lm.kwargs.get("api_base") for lm in lms] == ["http://localhost:1", None]

    def test_sees_no_new_lms(self) -> None:
        a, b = FakeLM("a", says("a")), FakeLM("b", says("b"))
        outer = Outer(MoA(QA, [a], b))
        assert outer.get_lm() is None
        outer.set_lm(b)
        assert outer.get_lm() is b
        assert len(outer.predictors()) == 3


class TestCopies:
    def test_a_reset_copy_keeps_what_was_learned_and_the_lms(self) -> None:
        moa = real("a", "b", strategy=Voting(weights={"a": 0.5}))
        copied: Any = moa.reset_copy()
        assert copied.strategy.weights == {"a": 0.5}
        assert all(mine.lm is its.lm for mine, its in zip(moa.agents, copied.agents, strict=True))

    def test_weights_of_a_copy_are_its_own(self) -> None:
        moa: Any = real("a", strategy=Voting(weights={"a": 0.5}))
        moa.deepcopy().strategy.weights["a"] = 9.0
        assert moa.strategy.weights == {"a": 0.5}

    def test_no_history_is_copied(self) -> None:
        class Entry(dict[str, Any]):
            def __deepcopy__(self, memo: Any) -> Any:
                raise AssertionError("history was copied")

        lms = cast("a", "b", "judge")
        moa: Any = mixture(lms)
        for holder in [*lms.values(), moa, moa.aggregator, *moa.agents, *moa.predictors()]:
            holder.history = [Entry()] * 300
        copied = moa.deepcopy()
        assert [agent.lm for agent in copied.agents] == [*lms.values()]
        assert type(copied) is MoA and copied.proposers is not moa.proposers
