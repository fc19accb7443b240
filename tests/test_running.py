import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.gate import Gate
from support.mixtures import QA, cast, echo, mixture, says

from moa_dspy.concurrency import Batch, Call, Outcome, Steps, acall, adrive, drive, together
from moa_dspy.rollouts import Rollout, ambient_rollout

Run = Callable[[Steps[Any]], Any]


def in_tasks(steps: Steps[Any]) -> Any:
    return asyncio.run(adrive(steps))


def in_loop(steps: Steps[Any]) -> Any:
    async def main() -> Any:
        return drive(steps)

    return asyncio.run(main())


both = pytest.mark.parametrize("run", [pytest.param(drive, id="sync"), pytest.param(in_tasks, id="async")])
each = pytest.mark.parametrize(
    "run",
    [pytest.param(drive, id="sync"), pytest.param(in_tasks, id="async"), pytest.param(in_loop, id="sync in loop")],
)


class Does(dspy.Module):
    """A module without `aforward`."""

    def __init__(self, do: Callable[..., Any]) -> None:
        super().__init__()
        self.do = do

    def forward(self, **inputs: Any) -> Any:
        return self.do(**inputs)


class Awaits(Does):
    """A module that does the same when it is awaited."""

    async def aforward(self, **inputs: Any) -> Any:
        result = self.do(**inputs)
        return await result if asyncio.iscoroutine(result) else result


def raises(error: BaseException) -> Callable[..., Any]:
    def do(**inputs: Any) -> Any:
        raise error

    return do


def once(*calls: Call | dspy.Module, **options: Any) -> Steps[list[Outcome]]:
    """A step program of one batch."""
    outcomes = yield Batch([call if isinstance(call, Call) else Call(call, {}) for call in calls], **options)
    return outcomes


def slow(name: str, seconds: float) -> Call:
    """An LM call that takes its time."""
    lm = FakeLM(name, says(name), delay=seconds)
    return Call(dspy.Predict(QA), {"question": "?"}, settings={"lm": lm})


class TestDrive:
    @each
    @pytest.mark.parametrize("kind", [Does, Awaits])
    def test_sends_the_outcomes_in_declared_order_and_returns_the_result(self, run: Run, kind: Any) -> None:
        def steps() -> Steps[list[Any]]:
            first = yield Batch([Call(kind(lambda n: n * 2), {"n": n}) for n in range(3)])
            second = yield Batch([Call(kind(lambda n: n + 1), {"n": outcome.value}) for outcome in first])
            return [outcome.value for outcome in second]

        assert run(steps()) == [1, 3, 5]

    @each
    def test_a_program_may_ask_nothing(self, run: Run) -> None:
        assert run(once()) == []

    @each
    def test_runs_a_batch_side_by_side(self, run: Run) -> None:
        gate = Gate(3)
        lm = FakeLM("a", echo, gate=gate)
        calls = [Call(dspy.Predict(QA), {"question": str(n)}, settings={"lm": lm}) for n in range(3)]
        assert [outcome.value.answer for outcome in run(once(*calls))] == ["0", "1", "2"]
        assert gate.opened == 1

    @both
    def test_an_error_is_an_outcome(self, run: Run) -> None:
        error = RuntimeError("no")
        failed, fine = run(once(Awaits(raises(error)), Awaits(lambda: 1)))
        assert (failed.error, failed.finished, fine.value, fine.error) == (error, True, 1, None)

    @both
    @pytest.mark.parametrize("kind", [Does, Awaits])
    def test_even_the_errors_that_python_itself_uses(self, run: Run, kind: Any) -> None:
        errors = [StopIteration("x"), StopAsyncIteration("x")]
        outcomes = run(once(*(kind(raises(error)) for error in errors)))
        assert all(outcome.finished and isinstance(outcome.error, Exception) for outcome in outcomes)

    @both
    @pytest.mark.parametrize("kind", [Does, Awaits])
    def test_a_call_that_cancels_itself_has_failed(self, run: Run, kind: Any) -> None:
        cancelled, fine = run(once(kind(raises(asyncio.CancelledError())), kind(lambda: 1)))
        assert (type(cancelled.error), cancelled.finished, fine.value) == (asyncio.CancelledError, True, 1)

    @both
    @pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("others", [0, 1])
    def test_an_interrupt_ends_the_whole(self, run: Run, error: type[BaseException], others: int) -> None:
        with pytest.raises(error):
            run(once(Awaits(raises(error())), *[Awaits(lambda: 1)] * others))

    def test_a_lone_call_stays_in_the_callers_thread(self) -> None:
        [outcome] = drive(once(Does(threading.get_ident)))
        assert outcome.value == threading.get_ident()

    @both
    def test_a_call_sees_the_callers_settings_and_its_own_and_leaves_none(self, run: Run) -> None:
        def look() -> Any:
            return dspy.settings.max_errors, dspy.settings.num_threads, ambient_rollout()

        with dspy.context(max_errors=77):
            calls = [Call(Awaits(look), {}, settings={"num_threads": n}, rollout=Rollout(n)) for n in (5, 6)]
            assert [outcome.value for outcome in run(once(*calls))] == [(77, 5, Rollout(5)), (77, 6, Rollout(6))]
            assert (dspy.settings.num_threads, ambient_rollout()) == (8, None)

    @both
    def test_measures_each_call(self, run: Run) -> None:
        quick, late = run(once(slow("a", 0.0), slow("b", 0.2)))
        assert quick.seconds < late.seconds and 0.2 <= late.seconds < 2


class TestTimeout:
    @both
    def test_leaves_the_late_ones_behind(self, run: Run) -> None:
        started = time.monotonic()
        late, quick = run(once(slow("a", 4), slow("b", 0), timeout=0.5))
        assert (late, quick.value.answer, quick.finished) == (Outcome(), "b", True)
        assert time.monotonic() - started < 3

    @both
    def test_holds_for_a_lone_call(self, run: Run) -> None:
        assert run(once(slow("a", 2), timeout=0.1)) == [Outcome()]

    @both
    def test_does_not_wait_when_all_are_in(self, run: Run) -> None:
        started = time.monotonic()
        assert all(outcome.finished for outcome in run(once(slow("a", 0), slow("b", 0), timeout=60)))
        assert time.monotonic() - started < 5

    def test_cancels_a_task_and_waits_until_it_is(self) -> None:
        lm = FakeLM("a", says("a"), delay=5)

        async def main() -> list[bool]:
            await adrive(once(Call(dspy.Predict(QA), {"question": "?"}, settings={"lm": lm}), timeout=0.5))
            return [call.cancelled for call in lm.log]

        assert asyncio.run(main()) == [True]

    def test_what_an_abandoned_call_does_later_is_not_seen(self) -> None:
        with dspy.context(trace=[]):
            outcomes = drive(once(slow("a", 0.7), slow("b", 0), timeout=0.5))
            time.sleep(0.4)
            assert outcomes[0] == Outcome() and len(dspy.settings.trace) == 1


class TestEnough:
    @both
    def test_stops_waiting_as_soon_as_it_is_said(self, run: Run) -> None:
        started = time.monotonic()
        outcomes = run(once(slow("a", 3), slow("b", 0), enough=lambda seen: any(o.finished for o in seen)))
        assert [outcome.finished for outcome in outcomes] == [False, True]
        assert time.monotonic() - started < 2.5

    @both
    def test_is_shown_only_what_has_finished(self, run: Run) -> None:
        seen: list[list[bool]] = []
        run(once(slow("a", 0.3), slow("b", 0), enough=lambda so_far: seen.append([o.finished for o in so_far])))
        assert seen == [[False, True], [True, True]]

    @both
    def test_goes_with_a_timeout(self, run: Run) -> None:
        calls = [slow("a", 4), slow("b", 0)]
        assert [o.finished for o in run(once(*calls, timeout=0.5, enough=lambda seen: False))] == [False, True]


class TestCancellation:
    def test_of_the_caller_cancels_every_call(self) -> None:
        lms = cast("a", "b", delay=10)

        async def main() -> None:
            calls = [Call(dspy.Predict(QA), {"question": "?"}, settings={"lm": lm}) for lm in lms.values()]
            task = asyncio.create_task(adrive(once(*calls)))
            while not all(lm.calls for lm in lms.values()):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert [call.cancelled for lm in lms.values() for call in lm.log] == [True, True]

    def test_of_a_module_in_a_thread_does_not_wait_for_it(self) -> None:
        release = threading.Event()

        async def main() -> None:
            await asyncio.wait_for(acall(Does(release.wait)), timeout=0.1)

        started = time.monotonic()
        with pytest.raises(asyncio.TimeoutError):
            asyncio.run(main())
        release.set()
        assert time.monotonic() - started < 2

    def test_interrupt_in_the_caller_is_not_held_up(self) -> None:
        release = threading.Event()

        def interrupted(seen: Any) -> bool:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            drive(once(Does(release.wait), Does(lambda: 1), enough=interrupted))
        release.set()


@pytest.mark.parametrize("how", ["drive(late())", "asyncio.run(adrive(late()))"])
def test_an_abandoned_call_does_not_keep_the_interpreter_from_exiting(how: str) -> None:
    program = f"""
        import asyncio, threading, dspy
        from moa_dspy.running import Batch, Call, adrive, drive

        class Hangs(dspy.Module):
            def forward(self):
                threading.Event().wait()

        def late():
            yield Batch([Call(Hangs(), {{}})], timeout=0.1)

        {how}
        print("done")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


class TestTrace:
    @each
    def test_is_merged_in_declared_order_whatever_finishes_first(self, run: Run) -> None:
        calls = [slow(name, seconds) for name, seconds in (("a", 0.15), ("b", 0.1), ("c", 0.0))]
        with dspy.context(trace=[]):
            run(once(*calls))
            trace = list(dspy.settings.trace)
        assert [(step[0], step[2].answer) for step in trace] == [
            (call.module, name) for call, name in zip(calls, "abc", strict=True)
        ]

    @both
    def test_keeps_the_last_steps_when_it_is_full(self, run: Run) -> None:
        with dspy.context(trace=[], max_trace_size=2):
            run(once(*(slow(name, 0) for name in "abc")))
            assert [step[2].answer for step in dspy.settings.trace] == ["b", "c"]

    @both
    @pytest.mark.parametrize("settings", [{"trace": None}, {"trace": [], "max_trace_size": 0}])
    def test_is_not_kept_where_nobody_wants_it(self, run: Run, settings: dict[str, Any]) -> None:
        with dspy.context(**settings):
            run(once(slow("a", 0), slow("b", 0)))
            assert not dspy.settings.trace

    @both
    def test_of_a_failed_call_is_kept(self, run: Run) -> None:
        predict = dspy.Predict(QA)

        class Fails(dspy.Module):
            def forward(self) -> None:
                predict(question="?")
                raise ValueError

        with dspy.context(trace=[], lm=FakeLM("a", says("a"))):
            run(once(Fails(), slow("b", 0)))
            assert [step[2].answer for step in dspy.settings.trace] == ["a", "b"]

    @pytest.mark.parametrize("specialized", [False, True])
    def test_of_a_mixture_names_the_predictors_in_declared_order(self, specialized: bool) -> None:
        lms = {name: FakeLM(name, says(name), delay=delay) for name, delay in (("a", 0.1), ("b", 0.05), ("c", 0.0))}
        moa: Any = mixture({**lms, **cast("judge")}, use_specialized_prompts=specialized)
        names = {id(predictor): name for name, predictor in moa.named_predictors()}
        for _ in range(3):
            with dspy.context(trace=[]):
                moa(question="?")
                steps = [(names[id(step[0])].split(".")[1], step[2].answer) for step in dspy.settings.trace]
            proposers = [(name if specialized else "shared", name) for name in "abc"]
            assert steps == [*proposers, ("program", "judge")]


class TestTogether:
    @both
    def test_joins_the_batches_of_programs_of_any_length(self, run: Run) -> None:
        def counting(start: int, laps: int) -> Generator[Batch, list[Outcome], list[int]]:
            values = []
            for lap in range(laps):
                outcomes = yield Batch([Call(Does(lambda n: n), {"n": start + n}) for n in range(lap + 1)])
                values += [outcome.value for outcome in outcomes]
            return values

        assert run(together(counting(0, 0), counting(10, 2), counting(20, 3))) == [
            [],
            [10, 10, 11],
            [20, 20, 21, 20, 21, 22],
        ]

    @both
    def test_asks_side_by_side(self, run: Run) -> None:
        gate = Gate(2)
        lm = FakeLM("a", echo, gate=gate)
        calls = [Call(dspy.Predict(QA), {"question": str(n)}, settings={"lm": lm}) for n in range(2)]
        results = run(together(*(once(call) for call in calls)))
        assert [outcomes[0].value.answer for outcomes in results] == ["0", "1"] and gate.opened == 1

    @both
    def test_of_nothing_is_nothing(self, run: Run) -> None:
        assert run(together()) == []
