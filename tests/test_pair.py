"""Two engines in two processes as one: real ones on tiny weights, each with its own networks alone."""
import contextlib
import os
import signal
import time

import numpy as np
import pytest
from conftest import write_preset

from turbo_engine.errors import RequestError, TurboError, WeightsError
from turbo_engine.pair import Pair
from turbo_engine.types import Request
from turbo_engine.worker import Worker

CPU = {"device": "cpu", "threads": 1}


def pair_of(preset) -> Pair:
    return Pair(*(Worker(preset, options={**CPU, "modes": [mode]}) for mode in ("turbo", "full")))


@contextlib.contextmanager
def loaded(preset):
    pair, states = pair_of(preset), []
    try:
        yield pair.load(lambda state, line: states.append((state, line))), states
    finally:
        pair.close()
    assert all(worker._child is None for worker in (pair._turbo, pair._full))


def clip(pair, mode: str, **options):
    *_, result = pair.generate(Request("a cat", 3, mode), **options)
    return result


def test_each_makes_its_own_clips_and_both_at_once(engine, tiny_preset_path):
    with loaded(tiny_preset_path) as (pair, _):
        meanwhile, moved = [], []

        def give_way():
            if not meanwhile:
                before = pair._full._child.beats
                meanwhile.append(clip(pair, "turbo"))
                deadline = time.monotonic() + 60
                while pair._full._child.beats == before and time.monotonic() < deadline:
                    time.sleep(0.01)
                moved.append(pair._full._child.beats - before)

        *_, render = pair.generate(Request("a cat", 3, "full", num_steps=60), give_way=give_way)
        assert moved[0] > 0, "the full render stood still"
        for mode, result in (("turbo", meanwhile[0]), ("full", render)):
            *_, single = engine.generate(Request("a cat", 3, mode, num_steps=4 if mode == "turbo" else 60))
            assert np.abs(result.frames.astype(int) - single.frames).max() <= 1 and result.recipe["mode"] == mode     # other threads round otherwise
        about = pair.describe()
        assert set(about["weights"]) == {"student", "decoder"} and set(render.recipe["weights"]) == {"teacher", "decoder"}
        assert about["kernels"][-1] == "full renders: on cpu" and about["process"] == {"restarts": 0}
        assert pair.decode(render.latent).shape == render.frames.shape and pair.check_prompt("a zebrra").corrected
        assert pair.answers(5.0) and pair.memory(5.0)["resident"] > pair._turbo.memory(5.0)["resident"] > 10 << 20


def test_one_is_lost_and_the_other_does_not_notice(tiny_preset_path):
    with loaded(tiny_preset_path) as (pair, states):
        clip(pair, "full")
        os.kill(pair._full._child.process.pid, signal.SIGKILL)
        assert clip(pair, "turbo").frames.any() and clip(pair, "full").frames.any()
        assert pair.restarts == 1 and {state for state, _ in states} <= {"loading", "ready"}
        assert any(state == "ready" and line.startswith("Full renders: The engine stopped") for state, line in states) and states[-1] == ("ready", "")


def test_where_full_renders_cannot_be_made_turbo_clips_can(tmp_path):
    path = write_preset(tmp_path)
    (tmp_path / "tiny" / "teacher.safetensors").write_bytes(b"<html>")
    with loaded(path) as (pair, states):
        assert clip(pair, "turbo").frames.any()
        with pytest.raises(WeightsError, match="teacher.safetensors"):
            clip(pair, "full")
        assert clip(pair, "turbo").frames.any() and "failed" not in {state for state, _ in states}


def test_an_engine_opened_for_one_mode_refuses_the_other(tmp_path, text_encoder):
    from turbo_engine.engine import Engine
    path = write_preset(tmp_path)
    (tmp_path / "tiny" / "student.safetensors").unlink()
    engine = Engine(path, **CPU, encoder=text_encoder, modes=["full"]).load()
    with pytest.raises(RequestError, match="mode: expected full, as this engine was opened for, got turbo"):
        engine.generate(Request("a cat"))
    for modes in ((), ("draft",)):
        with pytest.raises(TurboError, match="modes: expected turbo or full or both, got"):
            Engine(path, modes=modes)


@pytest.mark.parametrize("mode, networks", [("turbo", ["turbo high-noise", "turbo low-noise"]), ("full", ["full high-noise", "full low-noise"])])
def test_of_a_wan_preset_one_modes_networks_alone_are_opened(tmp_path, mode, networks):
    from tiny_wan import I2V, a_picture, write_wan_preset

    from turbo_engine.engine import Engine
    engine = Engine(write_wan_preset(tmp_path, I2V), **CPU, modes=[mode]).load()
    *_, result = engine.generate(Request("a cat", mode=mode, num_steps=2, image=a_picture()))
    assert result.frames.any() and sorted(engine._family._networks) == networks and not engine.describe()["live_pauses"]
