import itertools
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import says

from moa_dspy.rollouts import Rollout, ambient_rollout, compose, resample, rollout_of, sample, sampling


def lm(**kwargs: Any) -> FakeLM:
    return FakeLM("a", says("a"), **kwargs)


class TestCompose:
    def test_none_asks_for_nothing(self) -> None:
        assert [compose(None, None), compose(Rollout(3), None), compose(None, Rollout(4))] == [
            None,
            Rollout(3),
            Rollout(4),
        ]

    def test_every_pair_has_an_id_of_its_own_at_any_depth(self) -> None:
        ids = [Rollout(id) for id in range(-3, 10)]
        pairs = [compose(outer, inner) for outer, inner in itertools.product(ids, ids)]
        deeper = [compose(outer, inner) for outer, inner in itertools.product(ids, pairs)]
        rollouts = [rollout.id for rollout in [*ids, *pairs, *deeper] if rollout]
        assert len({*rollouts}) == len(rollouts) == 13 + 13**2 + 13**3

    def test_ids_stay_small_enough_for_the_cache(self) -> None:
        rollout = compose(Rollout(1), Rollout(2))
        for _ in range(20):
            rollout = compose(rollout, rollout)
        assert rollout is not None and 0 <= rollout.id < 2**53

    def test_is_the_same_in_every_process(self) -> None:
        assert compose(Rollout(1), Rollout(2)) == Rollout(179002604481136)

    @pytest.mark.parametrize(
        ("outer", "inner", "wins"), [(0.1, 0.9, 0.9), (0.1, None, 0.1), (None, 0.9, 0.9), (0.5, 0.0, 0.0)]
    )
    def test_inner_temperature_wins(self, outer: float | None, inner: float | None, wins: float) -> None:
        composed = compose(Rollout(1, outer), Rollout(2, inner))
        assert composed is not None and composed.temperature == wins


def test_samples_count_where_nobody_else_counts() -> None:
    assert [sample(number) for number in range(3)] == [None, Rollout(-1), Rollout(-2)]


def test_rollout_of_an_lm() -> None:
    asked = [rollout_of(None), rollout_of(lm()), rollout_of(lm(rollout_id=0, temperature=0.5))]
    assert asked == [None, None, Rollout(0, 0.5)]


class TestAmbient:
    def test_is_that_of_the_settings(self) -> None:
        with dspy.context(lm=lm(rollout_id=3)):
            assert ambient_rollout() == Rollout(3)
        assert ambient_rollout() is None

    def test_of_an_enclosing_mixture_comes_first(self) -> None:
        with dspy.context(lm=lm(rollout_id=3)), sampling(Rollout(5)):
            assert ambient_rollout() == Rollout(5)

    def test_reaches_the_workers_of_dspy_parallel(self) -> None:
        class Look(dspy.Module):
            def forward(self) -> Any:
                return dspy.Prediction(rollout=ambient_rollout())

        with sampling(Rollout(5)):
            seen = dspy.Parallel(num_threads=2, disable_progress_bar=True)([(Look(), {})] * 2)
        assert [pred.rollout for pred in seen] == [Rollout(5), Rollout(5)]


class TestResampled:
    def test_without_a_rollout_is_the_lm_itself(self) -> None:
        own = lm()
        assert resample(own, None) is own

    def test_keeps_the_lms_own_temperature_unless_another_is_asked_for(self) -> None:
        own = lm(temperature=0.3)
        copies = [resample(own, Rollout(1)), resample(own, Rollout(2, 0.0))]
        assert [(copied.kwargs["rollout_id"], copied.kwargs["temperature"]) for copied in copies] == [
            (1, 0.3),
            (2, 0.0),
        ]
        assert own.kwargs == {"temperature": 0.3, "max_tokens": None}

    def test_shares_the_lms_connections(self) -> None:
        own: Any = dspy.LM("openai/gpt-5-mini", api_key="x")
        copied: Any = resample(own, Rollout(1))
        assert copied._engine_store is own._engine_store
