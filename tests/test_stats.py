"""The stopwatch, with a clock in hand."""
import pytest

from turbo_engine.stats import Stopwatch, peak_memory_mib


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_stages_add_up_and_waiting_counts_in_the_total():
    clock, synced = Clock(), []
    watch = Stopwatch(sync=lambda: synced.append(clock.now), clock=clock)
    for seconds in (1.0, 0.5):
        with watch.stage("denoise"):
            clock.now += seconds
        clock.now += 2.0                                       # someone looks at a preview
    with watch.stage("decode"):
        clock.now += 0.25
    assert watch.report() == {"denoise": 1.5, "decode": 0.25, "total": 5.75} and watch.elapsed == 5.75
    assert synced == [101.0, 103.5, 105.75]                    # once a stage, before the clock is read


def test_a_stopped_watch_charges_nobody():
    clock = Clock()
    watch = Stopwatch(clock=clock)
    with watch.stage("denoise"):
        clock.now += 1.0
        with watch.stopped():
            clock.now += 40.0
        clock.now += 0.5
    with pytest.raises(RuntimeError), watch.stopped():
        clock.now += 7.0
        raise RuntimeError
    assert watch.report() == {"denoise": 1.5, "total": 1.5}


def test_a_stage_that_fails_is_charged():
    clock = Clock()
    watch = Stopwatch(clock=clock)
    with pytest.raises(RuntimeError), watch.stage("text"):
        clock.now += 3
        raise RuntimeError
    assert watch.stages == {"text": 3.0}


def test_peak_memory_is_this_processs():
    before = peak_memory_mib()
    if before is None:
        pytest.skip("the system does not tell")
    block = b"x" * int((before + 64) * 2 ** 20)                # more than all so far
    assert peak_memory_mib() >= before + 64 and len(block)
