"""The engine with tiny random weights in the shipped format: events, determinism, stopping, and what it refuses."""
import gc
import os
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from conftest import open_minilm, write_preset

import turbo_engine.engine as engine_module
from turbo_engine.denoiser import ContextCache, Denoiser, denoised_from_velocity
from turbo_engine.engine import PREVIEW_LATENT_FRAMES, Engine
from turbo_engine.errors import RequestError, TurboError, WeightsError
from turbo_engine.fake import FakeEngine
from turbo_engine.models.dit import DiT
from turbo_engine.presets import load_preset
from turbo_engine.types import Preview, Progress, Request, Result
from turbo_engine.weights import fill

TURBO, FULL = Request("a penguin on a beach", seed=7), Request("a penguin on a beach", seed=7, mode="full")


def last(engine, request) -> Result:
    *_, result = engine.generate(request)
    return result


def changed(request: Request, **changes) -> Request:
    return Request(**{**request.__dict__, **changes})


@pytest.fixture
def calls(engine, monkeypatch):
    """Counts network evaluations, whoever asks for them."""
    counted = []
    original = DiT.forward
    monkeypatch.setattr(DiT, "forward", lambda self, x, *rest: counted.append(len(x)) or original(self, x, *rest))
    return counted


# -- events and results ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("request_, steps, preview_at", [(TURBO, 4, 1), (FULL, 6, 3)], ids=["turbo", "full"])
def test_events_in_order(engine, request_, steps, preview_at):
    events = list(engine.generate(request_))
    expected = [("text", 1, 1)] + [("denoise", k, steps) for k in range(1, steps + 1)] + [("decode", 1, 1)]
    assert [(e.stage, e.step, e.num_steps) for e in events if isinstance(e, Progress)] == expected
    preview = events[1 + preview_at]
    assert isinstance(preview, Preview) and (preview.step, preview.num_steps) == (preview_at, steps)
    assert preview.frames.shape == (4 * PREVIEW_LATENT_FRAMES - 3, 64, 64, 3) and preview.frames.dtype == np.uint8
    assert isinstance(events[-1], Result) and sum(isinstance(e, Preview) for e in events) == 1
    times = [e.elapsed_s for e in events[:-1]]
    assert times == sorted(times) and times[0] >= 0
    assert events[0].eta_s is None and all(e.eta_s >= 0 for e in events if isinstance(e, Progress) and e.stage != "text")


def test_result_is_complete(engine):
    result = last(engine, changed(FULL, prompt="a penguin and a zebrra", num_steps=3, guidance_scale=2.5, negative_prompt="fog"))
    assert result.frames.shape == (9, 64, 64, 3) and result.frames.dtype == np.uint8 and result.frames.std() > 1
    assert result.latent.shape == (8, 3, 4, 4) and result.latent.dtype == np.float32 and result.fps == 16
    assert set(result.stage_s) == {"text", "denoise", "decode", "total"}
    assert sum(v for k, v in result.stage_s.items() if k != "total") <= result.stage_s["total"]
    recipe = result.recipe
    assert recipe["nfe"] == 6 and recipe["guidance_scale"] == 2.5 and recipe["negative_prompt"] == "fog"
    assert (recipe["mode"], recipe["sampler"], recipe["num_steps"], recipe["seed"]) == ("full", "unipc", 3, 7)
    assert (recipe["width"], recipe["height"], recipe["num_frames"], recipe["fps"]) == (64, 64, 9, 16)
    assert recipe["precision"] == "float32" and recipe["device"] == "cpu" and recipe["preset"] == "tiny" and recipe["kernels"]
    assert set(recipe["weights"]) == {"student", "teacher", "decoder"} and all(len(h) == 64 for h in recipe["weights"].values())
    assert result.notes == ('Read "zebrra" as "zebra".',)


def test_latent_decodes_to_the_same_frames(engine):
    result = last(engine, TURBO)
    assert np.array_equal(engine.decode(result.latent), result.frames)


@pytest.mark.parametrize("changes, passes", [({}, 1), ({"mode": "full"}, 2), ({"mode": "full", "guidance_scale": 1.0}, 1),
                                             ({"num_steps": 2, "sampler": "sde"}, 1)])
def test_evaluations_are_counted(engine, calls, changes, passes):
    result = last(engine, changed(TURBO, **changes))
    assert calls == [passes] * result.recipe["num_steps"] and result.recipe["nfe"] == sum(calls)


def test_preset_previews_can_be_switched_off_and_chosen(engine):
    assert not [e for e in engine.generate(changed(TURBO, preview_steps=())) if isinstance(e, Preview)]
    previews = [e.step for e in engine.generate(changed(TURBO, preview_steps=(2, 3))) if isinstance(e, Preview)]
    assert previews == [2, 3]


def test_other_sizes_and_lengths(engine):
    result = last(engine, changed(TURBO, width=96, height=64, num_frames=17))
    assert result.frames.shape == (17, 64, 96, 3) and result.latent.shape == (8, 5, 4, 6)
    assert last(engine, changed(TURBO, num_frames=1)).frames.shape == (1, 64, 64, 3)


# -- determinism -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("request_", [TURBO, changed(TURBO, sampler="sde"), changed(TURBO, sampler="ode"), FULL],
                         ids=lambda r: f"{r.mode}-{r.sampler}")
def test_same_request_same_bytes(engine, request_):
    """Whatever was made in between, and whatever the global generator did."""
    first = last(engine, request_)
    last(engine, changed(request_, seed=8, prompt="a train"))
    torch.rand(17)
    again = last(engine, request_)
    assert first.frames.tobytes() == again.frames.tobytes() and first.latent.tobytes() == again.latent.tobytes()
    assert first.recipe == again.recipe


def test_every_choice_shows(engine):
    base = last(engine, TURBO).latent
    for changes in ({"seed": 8}, {"prompt": "a train in space"}, {"sampler": "sde"}, {"sampler": "ode"}, {"num_steps": 3},
                    {"mode": "full"}):
        assert np.abs(last(engine, changed(TURBO, **changes)).latent - base).max() > 1e-3, changes
    full = last(engine, FULL).latent
    for changes in ({"guidance_scale": 1.0}, {"negative_prompt": "fog"}):
        assert np.abs(last(engine, changed(FULL, **changes)).latent - full).max() > 1e-3, changes


def test_turbo_and_full_start_from_one_draw(engine, monkeypatch):
    """The seed's unit-normal draw is the network's first input in both modes, turbo's scaled by its first time."""
    seen = []
    original = Denoiser.__call__
    monkeypatch.setattr(Denoiser, "__call__", lambda self, x, t: seen.append((x.clone(), t)) or original(self, x, t))
    for request in (TURBO, changed(TURBO, sampler="sde"), changed(TURBO, sampler="ode"), FULL):
        seen.clear()
        last(engine, request)
        x, t = seen[0]
        noise = x if request.mode == "full" else x / t
        expected = torch.randn(1, 8, 3, 4, 4, generator=torch.Generator().manual_seed(7))
        torch.testing.assert_close(noise.float(), expected, rtol=1e-6, atol=1e-6)


def test_spaces_around_a_prompt_do_not_matter(engine):
    assert np.array_equal(last(engine, TURBO).frames, last(engine, changed(TURBO, prompt=f"  {TURBO.prompt}\n")).frames)


# -- stopping --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("after", range(7))
def test_closing_stops_within_a_step(engine, calls, after):
    """However far it got, no evaluation is made after closing, and the engine serves the next request."""
    events = engine.generate(FULL)
    for _ in range(after):
        next(events)
    made = len(calls)
    events.close()
    assert len(calls) == made <= after
    assert last(engine, TURBO).frames.shape == (9, 64, 64, 3)


def test_closing_frees_what_the_job_held(engine, monkeypatch):
    held = []
    original = Denoiser.__init__
    monkeypatch.setattr(Denoiser, "__init__", lambda self, *a, **k: held.append(weakref.ref(self)) or original(self, *a, **k))
    for end in ("close", "drop", "finish"):
        events = engine.generate(FULL)
        for _ in range(3):
            next(events)
        if end == "close":
            events.close()
        elif end == "finish":
            list(events)
        del events
        gc.collect()
        assert held[-1]() is None, end
    assert not engine._lock.locked()


def test_one_job_at_a_time(engine, calls):
    """A second job waits for the first one to end or close."""
    first = engine.generate(FULL)
    next(first), next(first)
    done = threading.Event()
    made = len(calls)
    thread = threading.Thread(target=lambda: (last(engine, TURBO), done.set()))
    thread.start()
    assert not done.wait(0.3) and len(calls) == made
    first.close()
    assert done.wait(20)
    thread.join()


@pytest.mark.clock
def test_a_job_that_gives_way_makes_the_same_clip_bit_for_bit(engine, calls):
    """Another job runs inside it, between two blocks of a step and of the decoder; its own times leave that out."""
    alone, made = last(engine, FULL), len(calls)
    asked, between = [], []

    def give_way():
        asked.append(len(calls))
        if len(asked) % 3 == 0:
            between.append(last(engine, changed(TURBO, seed=len(asked))))
            time.sleep(0.05)

    result = [*engine.generate(FULL, give_way=give_way)][-1]
    assert np.array_equal(result.frames, alone.frames) and np.array_equal(result.latent, alone.latent)
    assert len(between) > 3 and np.array_equal(between[0].frames, last(engine, changed(TURBO, seed=3)).frames)
    assert result.recipe["nfe"] == alone.recipe["nfe"] and len(asked) > made
    assert result.stage_s["total"] < alone.stage_s["total"] + 0.05 * len(between)


def test_what_give_way_raises_ends_the_job(engine):
    class Enough(Exception):
        pass

    def give_way():
        raise Enough
    with pytest.raises(Enough):
        list(engine.generate(FULL, give_way=give_way))
    assert np.array_equal(last(engine, TURBO).frames, last(engine, TURBO).frames)


def test_another_thread_may_continue_a_job(engine):
    """A page's server moves a generator between worker threads."""
    events, results = engine.generate(TURBO), []
    next(events)
    thread = threading.Thread(target=lambda: results.extend(events))
    thread.start()
    thread.join()
    assert np.array_equal(results[-1].frames, last(engine, TURBO).frames)


def test_an_error_on_the_way_frees_the_engine(engine, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")
    with monkeypatch.context() as patch:
        patch.setattr(DiT, "forward", broken)
        with pytest.raises(RuntimeError, match="out of memory"):
            last(engine, TURBO)
    assert last(engine, TURBO).frames.any()


def while_recording() -> RuntimeError:
    error = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    error.__context__ = torch.OutOfMemoryError("CUDA out of memory")
    return error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory"),
                                   while_recording()])
def test_out_of_memory_costs_the_clip_alone_and_keeps_nothing_of_it(engine, monkeypatch, error):
    held = []

    def short(self, x, *rest):
        held.append(weakref.ref(x))
        raise error
    with monkeypatch.context() as patch:
        patch.setattr(DiT, "forward", short)
        with pytest.raises(TurboError, match="memory: expected room for 64x64, 9 frames, found too little on cpu; try a smaller") as caught:
            last(engine, TURBO)
    assert caught.value.__context__ is None
    error.__traceback__ = None
    gc.collect()
    assert held and held[0]() is None
    assert last(engine, TURBO).frames.any()


# -- what is refused -------------------------------------------------------------------------------------------------

def test_bad_requests_are_refused_before_any_work(engine, calls):
    for changes in ({"prompt": " "}, {"prompt": "x" * 10_000}, {"num_frames": 10}, {"width": 100}, {"num_steps": 9},
                    {"sampler": "unipc"}, {"seed": -1}):
        with pytest.raises(RequestError):
            engine.generate(changed(TURBO, **changes))
    assert calls == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("request_", [TURBO, FULL], ids=["turbo", "full"])
def test_numbers_gone_bad(engine, monkeypatch, value, request_):
    original, step = DiT.forward, []

    def poisoned(self, x, *rest):
        out = original(self, x, *rest)
        step.append(1)
        if len(step) == 2:
            out[..., 0, 0] = value
        return out
    monkeypatch.setattr(DiT, "forward", poisoned)
    with pytest.raises(TurboError, match="expected finite numbers, found NaN or infinity after step 2; try another seed"):
        last(engine, request_)
    assert len(step) == 2


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_flat_clips_are_failures(engine, monkeypatch, level):
    monkeypatch.setattr(engine._family._vae, "decode", lambda z: torch.full((1, 3, 4 * z.shape[2] - 3, 64, 64), level))
    with pytest.raises(TurboError, match="expected a picture, found one flat colour"):
        last(engine, TURBO)


def test_dark_and_still_clips_are_not(engine, monkeypatch):
    """No false alarm: a faint gradient in the dark, and a still picture."""
    for low, high in ((0.0, 0.02), (0.9, 1.0)):
        picture = torch.linspace(low, high, 64).expand(1, 3, 9, 64, 64)
        monkeypatch.setattr(engine._family._vae, "decode", lambda z, picture=picture: picture[:, :, :4 * z.shape[2] - 3])
        assert last(engine, TURBO).frames.shape == (9, 64, 64, 3)


def test_nan_from_the_decoder(engine, monkeypatch):
    monkeypatch.setattr(engine._family._vae, "decode", lambda z: torch.full((1, 3, 4 * z.shape[2] - 3, 64, 64), torch.nan))
    with pytest.raises(TurboError, match="found NaN or infinity after decoding"):
        last(engine, changed(TURBO, preview_steps=()))


def test_without_loading(tiny_preset_path):
    bare = Engine(tiny_preset_path, device="cpu")
    assert bare.describe()["loaded"] is False and bare.describe()["weights"] == {}
    for act in (lambda: bare.generate(TURBO), lambda: bare.check_prompt("a cat"), lambda: bare.decode(np.zeros((8, 1, 2, 2)))):
        with pytest.raises(TurboError, match=r"call load\(\) first"):
            act()


@pytest.mark.parametrize("device", ["gpu", "tpu:0", "cuda:99", "mps", ""])
def test_impossible_devices(tiny_preset_path, device):
    with pytest.raises(TurboError, match="device: expected .*; try"):
        Engine(tiny_preset_path, device=device)


def test_bad_weights_stop_the_load(tmp_path, text_encoder):
    path = write_preset(tmp_path)
    student = tmp_path / "tiny" / "student.safetensors"
    student.write_bytes(student.read_bytes()[:-10])
    engine = Engine(path, device="cpu", encoder=text_encoder)
    with pytest.raises(WeightsError, match="student.safetensors: expected .* bytes, found .*; it is cut short"):
        engine.load()
    assert engine.describe()["loaded"] is False


# -- parts -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def network(tiny_preset_path):
    preset = load_preset(tiny_preset_path)
    return fill(DiT(preset.dit), preset.weights_path("student"), "student").requires_grad_(False)


def test_guidance_by_hand(network):
    """One batch of two equals two passes combined as x0 = without + w * (with - without)."""
    torch.manual_seed(0)
    text, latent, t = torch.randn(1, 16, 384), torch.randn(1, 8, 3, 4, 4, dtype=torch.float64), 0.6
    context, nothing = network.embed_text(text), network.embed_text(torch.zeros_like(text))
    guided = Denoiser(network, context, unconditional=nothing, guidance_scale=3.0)
    x0 = guided(latent, t)
    timestep = torch.tensor([600.0])
    with_text, without = (latent - t * network(latent.float(), timestep, c).double() for c in (context, nothing))
    assert x0.dtype == torch.float64 and guided.nfe == 2
    torch.testing.assert_close(x0, without + 3.0 * (with_text - without), rtol=1e-4, atol=1e-4)
    plain = Denoiser(network, context)
    torch.testing.assert_close(plain(latent, t), with_text, rtol=1e-5, atol=1e-5)
    assert plain.nfe == 1


@pytest.mark.parametrize("rounding, expected", [("exact", 987.6543), ("integer", 987.0), ("bfloat16", 988.0)])
def test_timestep_is_a_thousand_t(network, monkeypatch, rounding, expected):
    seen = []
    monkeypatch.setattr(network, "embed_time", lambda t, original=network.embed_time: seen.append(t) or original(t))
    Denoiser(network, network.embed_text(torch.zeros(1, 16, 384)), rounding=rounding)(torch.zeros(1, 8, 3, 4, 4), 0.9876543)
    assert seen[0].item() == pytest.approx(expected)


def test_velocity_to_estimate():
    x0, noise = torch.randn(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    torch.testing.assert_close(denoised_from_velocity(0.3 * x0 + 0.7 * noise, noise - x0, 0.7), x0)


def test_text_is_embedded_once_per_prompt_and_network(network):
    asked = []
    cache = ContextCache(lambda prompt: asked.append(prompt) or torch.full((1, 16, 384), 1.0 + len(prompt)), size=2)
    first = cache.get("student", network, "one")
    assert cache.get("student", network, "one") is first and asked == ["one"]
    assert cache.get("teacher", network, "one") is not first and asked == ["one", "one"]
    cache.get("student", network, "three")                    # the oldest goes
    assert cache.get("student", network, "one") is not first
    nothing = cache.get("student", network, "")
    assert all(torch.equal(a, b) for pair, other in zip(nothing, network.embed_text(torch.zeros(1, 16, 384)))
               for a, b in zip(pair, other))


# -- the stand-in ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("request_", [TURBO, FULL], ids=["turbo", "full"])
def test_the_stand_in_behaves_as_the_engine(engine, tiny_preset_path, request_):
    """Same events, shapes, recipe and description keys, so that tests of the page carry over."""
    fake = FakeEngine(load_preset(tiny_preset_path)).load()
    real_events, fake_events = list(engine.generate(request_)), list(fake.generate(request_))

    def outline(events):
        return [(type(e), getattr(e, "stage", None), getattr(e, "step", None),
                 e.frames.shape if hasattr(e, "frames") else None) for e in events]
    assert outline(real_events) == outline(fake_events)
    real, stand_in = real_events[-1], fake_events[-1]
    assert real.recipe.keys() == stand_in.recipe.keys() and real.latent.shape == stand_in.latent.shape
    same = ("prompt", "seed", "mode", "sampler", "num_steps", "nfe", "guidance_scale", "width", "height", "num_frames", "fps")
    assert [real.recipe[k] for k in same] == [stand_in.recipe[k] for k in same]
    assert engine.describe().keys() == fake.describe().keys()
    assert set(real.stage_s) - {"preview"} == set(stand_in.stage_s)
    assert np.array_equal(fake.decode(stand_in.latent), stand_in.frames)


def test_the_stand_in_follows_prompt_seed_steps_and_script():
    fake = FakeEngine("pocket")
    base = last(fake, TURBO).frames
    assert np.array_equal(base, last(fake, TURBO).frames)
    for changes in ({"prompt": "a train"}, {"seed": 8}):
        assert not np.array_equal(base, last(fake, changed(TURBO, **changes)).frames)
    events = fake.generate(TURBO)
    next(events), next(events)
    events.close()
    assert len(fake.stopped) == 1 and len(fake.finished) == len(fake.requests) - 1
    with pytest.raises(WeightsError, match="gone"):
        last(FakeEngine("pocket", fail_at="decode", error=WeightsError("gone")), TURBO)
    with pytest.raises(RequestError):
        fake.generate(Request(""))


def test_threads_are_this_processs_share(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(3)), raising=False)
    assert Engine("pocket", device="cpu").threads == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(128)), raising=False)
    assert Engine("pocket", device="cpu").threads == engine_module.MAX_THREADS
    assert Engine("pocket", device="cpu", threads=5).threads == 5


def test_it_says_what_memory_it_holds(engine):
    before = engine.memory()
    held = np.ones(64 << 20, np.uint8)
    assert set(before) == {"resident"} and engine.memory()["resident"] - before["resident"] > 60 << 20
    del held


def test_bfloat16_stays_near(engine, tiny_preset_path, text_encoder):
    """What a GPU computes in, here on the CPU: every dtype fits, and one step stays near float32's."""
    half = Engine(tiny_preset_path, device="cpu", threads=2, encoder=text_encoder)
    half.dtype = torch.bfloat16
    half.load()
    for request in (changed(TURBO, num_steps=1), changed(FULL, num_steps=1)):
        exact, near = last(engine, request), last(half, request)
        assert near.recipe["precision"] == "bfloat16" and near.latent.dtype == np.float32
        assert 0 < np.abs(near.latent - exact.latent).mean() < 0.03 * np.abs(exact.latent).mean()
        assert np.abs(near.frames.astype(int) - exact.frames).mean() < 8


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(tiny_preset_path):
    gpu = Engine(tiny_preset_path, device="cuda", encoder=open_minilm("cuda")).load()
    for request in (TURBO, FULL):
        first, again = last(gpu, request), last(gpu, request)
        assert first.frames.tobytes() == again.frames.tobytes() and first.recipe["precision"] == "bfloat16"
