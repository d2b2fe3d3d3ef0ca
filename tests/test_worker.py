"""The engine's process: the engine's own behaviour through it, and every way to lose it."""
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import write_preset

from turbo_engine import worker as worker_module
from turbo_engine.errors import RequestError, TurboError, WeightsError
from turbo_engine.types import Preview, Progress, Request, Result
from turbo_engine.worker import EngineLost, Worker

pytestmark = pytest.mark.clock

FAULTY = "tests.faults:Faulty"


@contextlib.contextmanager
def faulty(**settings):
    reports = settings.pop("reports", None)
    worker = Worker("pocket", factory=FAULTY, options=settings, reports=reports)
    states = []
    try:
        yield worker.load(lambda state, line: states.append((state, line))), states
    finally:
        worker.close()


def clip(worker, prompt: str, **settings) -> Result:
    *_, result = worker.generate(Request(prompt, **settings))
    return result


def pid(worker) -> int:
    return worker._ready_child().process.pid


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


# -- the same engine, elsewhere --------------------------------------------------------------------------------------

def test_a_clip_is_bit_for_bit_that_of_the_engine(engine, tiny_preset_path):
    worker = Worker(tiny_preset_path, options={"device": "cpu", "threads": 2}).load()
    try:
        for mode in ("turbo", "full"):
            here, there = list(engine.generate(Request("a cat", 3, mode))), list(worker.generate(Request("a cat", 3, mode)))
            assert [(type(e), getattr(e, "step", None)) for e in here] == [(type(e), getattr(e, "step", None)) for e in there]
            assert np.array_equal(here[-1].frames, there[-1].frames) and np.array_equal(here[-1].latent, there[-1].latent)
            assert here[-1].recipe | {"kernels": 0} == there[-1].recipe | {"kernels": 0} and here[-1].notes == there[-1].notes
        asked: list[int] = []
        list(worker.generate(Request("a cat", 3, "full", num_steps=30), give_way=lambda: asked.append(1)))
        assert len(asked) >= 30, "quick steps left no pause"
        assert np.array_equal(engine.decode(here[-1].latent), worker.decode(here[-1].latent))
        assert engine.check_prompt("a zebrra") == worker.check_prompt("a zebrra")
        assert worker.describe()["weights"] == engine.describe()["weights"]
    finally:
        worker.close()


def test_what_cannot_be_served_is_refused_at_once_and_what_cannot_be_loaded_says_why(tmp_path, tiny_preset_path):
    with faulty() as (worker, _):
        with pytest.raises(RequestError, match="num_frames"):
            worker.generate(Request("a cat", num_frames=6))
    path = write_preset(tmp_path)
    (tmp_path / "tiny" / "student.safetensors").write_bytes(b"<html>")
    broken = Worker(path)
    with pytest.raises(WeightsError, match="student.safetensors"):
        broken.load()
    broken.close()


def test_a_job_that_gives_way_lets_others_through_and_comes_out_the_same():
    with faulty() as (worker, _):
        alone = clip(worker, "a cat", mode="full")
        others = []

        def give_way():
            if len(others) < 3:
                others.append(clip(worker, f"a dog {len(others)}"))

        events = list(worker.generate(Request("a cat", mode="full"), give_way=give_way))
        assert len(others) == 3 and np.array_equal(events[-1].frames, alone.frames)
        assert [type(e) for e in events].count(Preview) == 5


def test_closing_stops_the_job_and_the_next_one_starts_soon():
    with faulty() as (worker, _):
        events = worker.generate(Request("a cat", mode="full"))           # 50 steps of 30 ms
        next(events), next(events)
        start = time.monotonic()
        events.close()
        clip(worker, "a dog", num_steps=1)
        assert time.monotonic() - start < 1
        assert not worker._working and not worker._calls


def test_an_exception_costs_its_job_alone_and_comes_as_a_line():
    with faulty() as (worker, states):
        with pytest.raises(TurboError, match="stumbled on this one .ZeroDivisionError"):
            clip(worker, "bug")
        assert clip(worker, "a cat") and worker.restarts == 0


# -- losing it -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("how, cause", [("die", "SIGKILL"), ("fault", "SIGSEGV"), ("exit", "exit code 70"), ("close", "stood still")])
def test_a_lost_engine_is_replaced_and_its_job_done_once_more(tmp_path, how, cause, monkeypatch):
    monkeypatch.setattr(worker_module, "STALL_S", 1.0)                   # a closed pipe shows only by the silence
    marker = tmp_path / "once"
    marker.touch()
    with faulty(marker=str(marker)) as (worker, states):
        first = pid(worker)
        start = time.monotonic()
        result = clip(worker, f"{how} once")
        assert result.frames.shape == (33, 256, 256, 3) and time.monotonic() - start < 8
        assert worker.restarts == 1 and pid(worker) != first and gone(first)
        loading = [line for state, line in states if state == "loading"]
        assert any(cause in line and "clips are safe" in line for line in loading)
        assert states[-1][0] == "ready"


@pytest.mark.parametrize("how", ["hang", "spin"])
def test_an_engine_that_stands_still_is_found_and_replaced(tmp_path, how, monkeypatch):
    monkeypatch.setattr(worker_module, "STALL_S", 1.0)
    marker = tmp_path / "once"
    marker.touch()
    reports = tmp_path / "crashes"
    with faulty(marker=str(marker), reports=reports) as (worker, states):
        start = time.monotonic()
        clip(worker, f"{how} once")
        assert time.monotonic() - start < 1.0 + 2 + 3                     # the limit, 2 s, and a start on a shared machine
        assert any("stood still" in line for _, line in states)
        report, = [path.read_text() for path in reports.glob("*.txt") if path.stat().st_size]
        assert "stood still" in report and "faults.py" in report and "_break" in report       # where it hung


def test_an_engine_at_rest_or_slow_but_moving_is_left_alone(monkeypatch):
    monkeypatch.setattr(worker_module, "STALL_S", 0.4)
    with faulty(step_s=0.2) as (worker, _):
        time.sleep(1)
        events = worker.generate(Request("a cat"))
        next(events)
        time.sleep(1.5)                                                   # finished, and nobody has read it yet
        assert isinstance(list(events)[-1], Result) and worker.restarts == 0


@pytest.mark.parametrize("prompt, patience_s, restarts", [("read", 0.0, 0), ("pause", 60.0, 0), ("pause", 0.0, 1)])
def test_a_long_silence_is_borne_where_it_is_announced(tmp_path, monkeypatch, prompt, patience_s, restarts):
    """A network of 28 GB takes longer to read, and a step of it longer to compute, than ten seconds: such jobs were ended."""
    monkeypatch.setattr(worker_module, "STALL_S", 1.0)
    marker = tmp_path / "once"
    marker.touch()
    with faulty(patience_s=patience_s, marker=str(marker)) as (worker, _):
        monkeypatch.setattr(worker_module, "STALL_GAPS", 2)

        def once():                                                        # the second try is not silent
            while not worker.restarts:
                time.sleep(0.01)
            marker.unlink()
        if restarts:
            threading.Thread(target=once, daemon=True).start()
        assert clip(worker, f"{prompt} now") and worker.restarts == restarts


def test_a_job_that_stops_it_twice_is_set_aside(tmp_path):
    with faulty() as (worker, _):
        with pytest.raises(EngineLost, match="safe"):
            clip(worker, "die always")
        assert worker.restarts == 2
        with pytest.raises(TurboError, match="set aside"):
            worker.generate(Request("die always"))
        assert clip(worker, "a cat") and worker.restarts == 2


def test_a_long_job_starts_over_when_the_preview_it_gave_way_to_killed_the_engine(tmp_path):
    marker = tmp_path / "once"
    marker.touch()
    with faulty(marker=str(marker)) as (worker, _):
        alone, others = clip(worker, "a cat", mode="full"), []

        def give_way():
            if not others:
                others.append(clip(worker, "die once"))

        *_, result = worker.generate(Request("a cat", mode="full"), give_way=give_way)
        assert np.array_equal(result.frames, alone.frames) and len(others) == 1 and worker.restarts == 1


@pytest.mark.parametrize("fail_load, says", [("exit", "3 times while loading"), ("bug", "stumbled")])
def test_an_engine_that_cannot_start_is_given_up_with_a_reason(fail_load, says, monkeypatch):
    monkeypatch.setattr(worker_module, "BACK_OFF_S", (0, 0, 0))
    worker = Worker("pocket", factory=FAULTY, options={"fail_load": fail_load})
    try:
        with pytest.raises(TurboError, match=says):
            worker.load()
        with pytest.raises(TurboError, match=says):
            clip(worker, "a cat")
    finally:
        worker.close()


def test_killed_ten_times_under_load_nothing_is_left_behind():
    kill_under_load(10)


def kill_under_load(kills: int) -> float:
    """By four signals in turn. Returns: the longest it took to be ready again, in seconds."""
    longest, seen, stop, failures = 0.0, set(), threading.Event(), []
    with faulty(step_s=0.01) as (worker, _):
        def load():
            number = 0
            while not stop.is_set():
                number += 1
                try:
                    clip(worker, f"clip {number}", num_steps=2)
                except EngineLost:
                    pass                                                  # killed twice under one job
                except Exception as error:
                    failures.append(error)
                    break

        thread = threading.Thread(target=load, daemon=True)
        thread.start()
        for i in range(kills):
            victim = pid(worker)
            seen.add(victim)
            time.sleep(0.05 * (i % 4))
            os.kill(victim, (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM)[i % 4])
            start = time.monotonic()
            while not (gone(victim) and worker._child is not None and worker._child.ready and worker._child.process.pid != victim):
                assert time.monotonic() - start < 20
                time.sleep(0.02)
            longest = max(longest, time.monotonic() - start)
        stop.set()
        thread.join()
        assert not failures and len(seen) == kills and worker.restarts == kills
        seen.add(pid(worker))
    assert all(map(gone, seen))
    return longest


def test_the_child_ends_with_its_parent_even_when_it_hangs():
    script = ("import sys; from turbo_engine import Request, Worker; w = Worker('pocket', factory='tests.faults:Faulty').load(); "
              "e = w.generate(Request('spin')); next(e); print(w._ready_child().process.pid, flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        time.sleep(0.5)
        parent.kill()
    deadline = time.monotonic() + 5
    while not gone(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_closing_while_an_engine_is_being_replaced_leaves_none(monkeypatch):
    starting, go, made = threading.Event(), threading.Event(), []

    class Slow(worker_module._Child):
        def __init__(self, *arguments):
            starting.set()
            go.wait(10)
            super().__init__(*arguments)
            made.append(self.process.pid)

    worker = Worker("pocket", factory=FAULTY).load()
    monkeypatch.setattr(worker_module, "_Child", Slow)
    os.kill(pid(worker), signal.SIGKILL)
    assert starting.wait(10)
    closing = threading.Thread(target=worker.close)
    closing.start()
    while not worker._closing:
        time.sleep(0.01)
    go.set()
    closing.join(30)
    assert made and gone(made[0])


def test_reports_are_bounded_and_a_good_end_leaves_none(tmp_path):
    for i in range(25):
        (tmp_path / f"engine-20200101-0000{i:02}-x.txt").write_text("old")
    with faulty(reports=tmp_path) as (worker, _):
        with pytest.raises(EngineLost):
            clip(worker, "fault always")
    reports = sorted(tmp_path.glob("*.txt"))
    assert len(reports) == 20
    assert "SIGSEGV" in reports[-1].read_text() and "Current thread" in reports[-1].read_text()


def test_progress_comes_while_the_child_works_on():
    with faulty(step_s=0.1) as (worker, _):
        times = [time.monotonic() for event in worker.generate(Request("a cat")) if isinstance(event, Progress)]
        assert times[-1] - times[1] > 0.2
