"""A GPU at its limits: real shortages of memory, cancelled jobs, jobs by the hundred. The next job is fine every time, and nothing piles up.

    python -m pytest tests/soak/test_device.py --minutes 1 --report FILE
TEXT_ENCODER names a folder as `prune_text_encoder` writes it where MiniLM's wheel is not installed.
"""

import random

import pytest
import torch

from bench.random_wan import RandomWan
from tests.conftest import open_minilm
from turbo_engine.engine import Engine
from turbo_engine.errors import OutOfMemory
from turbo_engine.presets import load_preset
from turbo_engine.types import Request

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
MIB = 1 << 20
DRIFT_MIB = 32
PROMPTS = "a penguin bouncing on a beach", "a robot spinning in space", "a fox running in a forest", "a rocket rising over a city at night"


@pytest.fixture(scope="module", params=["pocket", "wan2.1-t2v-1.3b-480p"])
def strained(request, tmp_path_factory):
    """The name and a loaded engine; Wan's weights are random ones of true size."""
    preset = load_preset(request.param)
    if preset.weights is not None:
        engine = Engine(preset, device="cuda", encoder=open_minilm("cuda", preset.text.text_len)).load()
    else:
        engine = Engine(preset, device="cuda", weights=RandomWan(preset, tmp_path_factory.mktemp("wan")), modes=["turbo"]).load()
    yield request.param, engine
    engine.close()
    torch.cuda.empty_cache()


def clip_of(engine, prompt=PROMPTS[0], seed=0, frames=None):
    *_, result = engine.generate(Request(prompt, seed=seed, num_frames=frames or engine.preset.clip.num_frames))
    return result.frames


def settled(engine) -> int:
    """`in_use` once every prompt has been there: their keys and values are kept."""
    for prompt in PROMPTS:
        clip_of(engine, prompt)
    return in_use()


def in_use() -> int:
    """Bytes in use after a job, idle cache given back."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated()


def grown(before: int) -> float:
    return (in_use() - before) / MIB


def test_shortages_of_memory(strained, row):
    """Under limits that no job fits in, from next to nothing up to nine tenths of what it needs: it fails where it happens to."""
    name, engine = strained
    expected, frames = clip_of(engine), engine.preset.clip.max_num_frames
    before, whole, chance = settled(engine), torch.cuda.mem_get_info()[1], random.Random(0)
    engine._family.make_room()
    bare = in_use()
    torch.cuda.reset_peak_memory_stats()
    clip_of(engine, frames=frames)
    need = torch.cuda.max_memory_allocated() - bare
    clip_of(engine)
    for number in range(30):
        engine._family.make_room()
        torch.cuda.set_per_process_memory_fraction((in_use() + chance.uniform(0, 0.9) * need) / whole)
        try:
            with pytest.raises(OutOfMemory):
                clip_of(engine, PROMPTS[number % 4], number, frames)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        assert (clip_of(engine) == expected).all()
    drift = grown(before)
    row(f"{name}: jobs short of memory on the GPU", 30, f"each failed alone, the next one the same bit for bit; memory {drift:+.1f} MiB")
    assert drift <= DRIFT_MIB


def test_cancelled_jobs(strained, row):
    """At every step, in the middle of one, and before the first."""
    name, engine = strained
    expected, chance = clip_of(engine), random.Random(1)
    before, stopped = settled(engine), 0

    class Stop(Exception):
        pass

    for number in range(500):
        left = chance.randrange(60)

        def maybe_stop():
            nonlocal left
            left -= 1
            if left < 0:
                raise Stop

        job = engine.generate(Request(PROMPTS[number % 4], seed=number), give_way=maybe_stop if number % 2 else None)
        try:
            for _ in range(chance.randrange(1, 7)):
                next(job)
        except Stop:
            stopped += 1
        job.close()
        if number % 25 == 24:
            assert (clip_of(engine) == expected).all()
    drift = grown(before)
    row(f"{name}: jobs cancelled on the GPU", 500, f"{stopped} of them inside a step, the others between two; the next one the same bit for bit; memory {drift:+.1f} MiB")
    assert stopped and drift <= DRIFT_MIB


def test_jobs(strained, row):
    name, engine = strained
    expected, before = None, None
    for number in range(300):
        frames = clip_of(engine, PROMPTS[number % 4], number % 5)
        if number == 19:                                        # every prompt and seed has been there
            before = in_use()
        if number % 20 == 0:
            expected = frames if expected is None else expected
            assert (frames == expected).all()
    drift = grown(before)
    row(f"{name}: jobs on the GPU", 300, f"the same ones the same bit for bit; memory {drift:+.1f} MiB from the 20th to the last")
    assert drift <= DRIFT_MIB
