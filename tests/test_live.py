"""The desk without a browser: newest edit wins, nothing is lost, nothing is made twice, and no fault ends it."""

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from turbo_engine.errors import PresetError, RequestError, WeightsError
from turbo_engine.fake import FakeEngine
from turbo_engine.presets import list_presets
from turbo_engine.types import Result
from ui.clips import Clip, Clips, Edit
from ui.handlers import read_message
from ui.live import Desk
from ui.patience import Patience
from ui.session import FRAME_HEADER, FULL, FULL_ROUGH, ROUGH, TURBO, Outbox, Session
from ui.models import EXAMPLES, Models, describe_page

OPENING = Edit(0, "a penguin", 7)
pytestmark = pytest.mark.timeout(60)


class Page:
    """A page as the desk sees it, keeping what it is sent."""

    def __init__(self, desk: Desk, name: str = ""):
        self.desk = desk
        self.session = Session(asyncio.get_running_loop(), name)
        self.messages: list[dict] = []
        self.frames: list[tuple[int, int, int, int]] = []       # generation, kind, index, total, in order of arrival
        self._task = asyncio.create_task(self._read())
        desk.connect(self.session)

    async def _read(self):
        while True:
            payload = await self.session.outbox.next()
            if isinstance(payload, bytes):
                assert payload[FRAME_HEADER.size:][:2] == b"\xff\xd8"
                self.frames.append(FRAME_HEADER.unpack_from(payload))
            else:
                self.messages.append(json.loads(payload))

    async def until(self, **wanted) -> dict:
        """The first message that has all these values, waiting for it if need be."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for message in self.messages:
                if all(message.get(key) == value for key, value in wanted.items()):
                    return message
            await asyncio.sleep(0.005)
        raise AssertionError(f"no message with {wanted} among {[{k: m[k] for k in m if k != 'about'} for m in self.messages]}")

    async def whole(self, generation: int, kind: int) -> list[int]:
        """The frame indices of a clip, once all of them have come."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            got = [index for g, k, index, total in self.frames if (g, k) == (generation, kind)]
            if got and len(got) == next(f[3] for f in self.frames if f[:2] == (generation, kind)):
                return got
            await asyncio.sleep(0.005)
        raise AssertionError(f"clip {generation}/{kind} never came whole")

    def of(self, kind: str) -> list[dict]:
        return [message for message in self.messages if message["type"] == kind]

    def edit(self, generation: int, prompt: str, seed: int = 7, **settings):
        self.desk.edit(self.session, Edit(generation, prompt, seed, **settings))

    def render(self, generation: int, prompt: str, num_steps: int = 10, **settings):
        self.desk.render(self.session, Edit(generation, prompt, 7, "full", num_steps, **settings))

    def close(self):
        self.desk.disconnect(self.session)
        self._task.cancel()


@asynccontextmanager
async def open_desk(engine: FakeEngine, **settings):
    """A started desk, its engine loaded and its opening clip made."""
    desk = Desk(engine.load, OPENING, **settings)
    desk.start()
    try:
        while desk.clips.find(OPENING) is None:
            await asyncio.sleep(0.005)
        yield desk
    finally:
        desk.stop()
        assert not desk._thread.is_alive()


def run(scenario, engine: FakeEngine | None = None, **settings):
    async def whole():
        async with open_desk(engine or FakeEngine(), **settings) as desk:
            await scenario(desk)
    asyncio.run(whole())


def prompts(requests) -> list[str]:
    return [request.prompt for request in requests]


# -- one clip ----------------------------------------------------------------------------------------------------------

def test_an_edit_brings_words_progress_a_rough_picture_and_the_clip():
    async def scenario(desk):
        page = Page(desk)
        page.edit(1, "a robot spinning", seed=3)
        clip = await page.until(type="clip", generation=1, kind=TURBO)
        assert await page.whole(1, TURBO) == list(range(33))
        assert await page.whole(1, ROUGH) == list(range(5))
        assert page.frames[0][1] == ROUGH and page.frames[-1][1] == TURBO
        assert (clip["fps"], clip["total"], clip["prompt"], clip["seed"]) == (16, 33, "a robot spinning", 3)
        assert {"text", "denoise", "decode", "encode", "total"} <= set(clip["stage_s"])
        assert clip["recipe"]["seed"] == 3 and desk.clips.get(clip["id"]).result.frames.shape == (33, 256, 256, 3)
        said = await page.until(type="words")
        assert said["unknown"] == [] and [*said["settled"]] == ["on the left", "in the desert at noon"]
        assert said["read_as"] == "a robot on the left spinning in the desert at noon"
        page.close()
    run(scenario)


def test_a_page_that_opens_on_the_opening_shot_gets_it_from_memory():
    engine = FakeEngine()

    async def scenario(desk):
        page = Page(desk)
        page.edit(1, OPENING.prompt, OPENING.seed)
        assert (await page.until(type="clip"))["remembered"] is True
        assert await page.whole(1, TURBO) == list(range(33))
        assert len(engine.requests) == 1
        page.close()
    run(scenario, engine)


def test_unknown_words_are_reported():
    async def scenario(desk):
        page = Page(desk)
        page.edit(1, "a qenguin and a rockte on the moon")
        report = await page.until(type="words", generation=1)
        assert report["unknown"] == ["qenguin"] and [(word, [*near]) for word, near in report["suggestions"]] == [("qenguin", ["penguin"])]
        assert [[*pair] for pair in report["corrected"]] == [["rockte", "rocket"]]
        page.close()
    run(scenario)


# -- newest wins -------------------------------------------------------------------------------------------------------

def test_a_burst_ends_on_the_last_edit_and_makes_few_clips():
    engine = FakeEngine(step_s=0.02, decode_s=0.02)

    async def scenario(desk):
        page = Page(desk)
        for generation in range(1, 31):
            page.edit(generation, f"robot number {generation}")
            await asyncio.sleep(0.004)
        await page.whole(30, TURBO)
        await asyncio.sleep(0.2)
        shown = [message["generation"] for message in page.of("clip")]
        assert shown == sorted(shown) and shown[-1] == 30
        assert len(engine.requests) < 15
        page.close()
    run(scenario, engine)


def test_spaces_cost_nothing():
    engine = FakeEngine()

    async def scenario(desk):
        page = Page(desk)
        page.edit(1, "a robot")
        await page.until(type="clip", kind=TURBO)
        asked = len(engine.requests)
        for generation, prompt in enumerate(["a robot ", " a robot", "a  robot\n", "a\trobot"], 2):
            page.edit(generation, prompt)
            assert await page.until(type="same", generation=generation, **{"as": 1})
        page.edit(9, "arobot")
        await page.until(type="clip", generation=9)
        assert len(engine.requests) == asked + 1
        page.close()
    run(scenario, engine)


def test_going_back_to_words_made_before_asks_nothing_of_the_engine():
    engine = FakeEngine(step_s=0.01)

    async def scenario(desk):
        page = Page(desk)
        for generation, prompt in enumerate(["a robot", "a robots", "a robot"], 1):
            page.edit(generation, prompt)
            await page.until(type="clip", generation=generation, kind=TURBO)
        assert page.of("clip")[-1]["remembered"] is True
        assert prompts(engine.requests) == ["a penguin", "a robot", "a robots"]
        page.close()
    run(scenario, engine)


def test_a_slower_clip_never_replaces_a_remembered_newer_one():
    """Backspacing to words made before shows their clip at once; the clip still being made for the words in between must not
    come to the screen after it."""
    engine = FakeEngine(step_s=0.05, decode_s=0.05)

    async def scenario(desk):
        page = Page(desk)
        page.session.patience.gives_up = lambda *_: False       # let it run to its end
        page.edit(1, "a robot")
        await page.until(type="progress", generation=1)
        page.edit(2, OPENING.prompt, OPENING.seed)
        await page.until(type="clip", generation=2)
        while "a robot" not in prompts(engine.finished):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert page.of("clip")[-1]["generation"] == 2 and page.frames[-1][0] == 2
        page.close()
    run(scenario, engine)


def test_an_overtaken_preview_stops_within_one_step():
    engine = FakeEngine(step_s=0.1)

    async def scenario(desk):
        page = Page(desk)
        page.session.patience.picture_landed(time.monotonic())
        page.edit(1, "a robot")
        await page.until(type="progress", stage="text")
        page.edit(2, "a rocket")
        await page.until(type="dropped", generation=1)
        await page.until(type="clip", generation=2, kind=TURBO)
        assert prompts(engine.stopped) == ["a robot"]
        page.close()
    run(scenario, engine)


def test_two_pages_do_not_take_each_others_edits():
    async def scenario(desk):
        left, right = Page(desk), Page(desk)
        for generation in range(1, 6):
            left.edit(generation, f"robot {generation}")
            right.edit(generation, f"rocket {generation}")
        await left.whole(5, TURBO)
        await right.whole(5, TURBO)
        assert {m["prompt"].split()[0] for m in left.of("clip")} == {"robot"}
        assert {m["prompt"].split()[0] for m in right.of("clip")} == {"rocket"}
        left.close()
        right.close()
    run(scenario, FakeEngine(step_s=0.01))


def test_a_closed_page_stops_its_preview():
    engine = FakeEngine(step_s=0.2)

    async def scenario(desk):
        page = Page(desk)
        page.edit(1, "a robot")
        await page.until(type="progress", stage="denoise")
        page.close()
        while not engine.stopped:
            await asyncio.sleep(0.01)
        assert prompts(engine.stopped) == ["a robot"]
    run(scenario, engine)


# -- full renders ------------------------------------------------------------------------------------------------------

def test_a_full_render_counts_its_steps_and_brings_its_clip():
    async def scenario(desk):
        page = Page(desk)
        page.render(1, "a robot", num_steps=12)
        clip = await page.until(type="clip", kind=FULL)
        assert await page.whole(1, FULL) == list(range(33))
        assert clip["recipe"]["mode"] == "full" and clip["recipe"]["num_steps"] == 12
        assert any(frame[1] == FULL_ROUGH for frame in page.frames)
        page.close()
    run(scenario, FakeEngine(step_s=0.01))


@pytest.mark.clock
def test_edits_come_between_and_the_full_render_goes_on():
    """A step of 2 s is stepped out of within a block of it, on a slow machine within half of one, nothing of it is made twice, and its clip is the same."""
    engine = FakeEngine()

    async def scenario(desk):
        page = Page(desk)
        page.render(1, "a robot", num_steps=4)
        alone = (await page.until(type="clip", kind=FULL))["id"]
        page.edit(2, "a ship")
        await page.until(type="clip", generation=2, kind=TURBO)
        desk.clips = Clips()                                    # forget it
        engine.step_s = 2.0
        page.render(3, "a robot", num_steps=4)
        first = await page.until(type="progress", generation=3, stage="denoise", step=1)
        engine.step_s = 0.0
        asked = time.monotonic()
        page.edit(4, "a rocket")
        await page.until(type="clip", generation=4, kind=TURBO)
        assert time.monotonic() - asked < 1.0
        page.edit(5, "a hat")
        await page.until(type="clip", generation=5, kind=TURBO)
        assert not [m for m in page.of("clip") if m["generation"] == 3 and m["kind"] == FULL]
        again = await page.until(type="clip", generation=3, kind=FULL)
        assert first["eta_s"] < 10.0 and again["id"] != alone
        steps = [m["step"] for m in page.of("progress") if m["generation"] == 3 and m["stage"] == "denoise"]
        assert steps == sorted(set(steps)) and steps[0] == 1            # an unsent one is overtaken, none is told twice
        page.close()
    run(scenario, engine)


def test_a_full_render_outlives_its_page_and_greets_it_when_it_comes_back():
    engine = FakeEngine(step_s=0.05)

    async def scenario(desk):
        page = Page(desk, "tab")
        page.render(7, "a robot", num_steps=8)
        await page.until(type="progress", mode="full", stage="denoise", step=2)
        page.close()
        back = Page(desk, "tab")
        assert (await back.until(type="render", generation=7))["num_steps"] == 8
        assert (await back.until(type="progress", mode="full", stage="denoise"))["step"] >= 2
        assert (await back.until(type="clip", kind=FULL))["generation"] == 7
        assert await back.whole(7, FULL) == list(range(33))
        back.close()
        third, stranger = Page(desk, "tab"), Page(desk, "another")
        await third.until(type="clip", kind=FULL)               # done meanwhile: shown all the same
        await stranger.until(type="engine")
        await asyncio.sleep(0.05)
        assert not stranger.of("render") and not stranger.of("clip")
        third.close(), stranger.close()
    run(scenario, engine)


def test_a_render_that_failed_while_its_page_was_away_says_so_when_it_is_back():
    engine = FakeEngine(step_s=0.02)

    async def scenario(desk):
        page = Page(desk, "tab")
        page.render(1, "a robot", num_steps=40)
        await page.until(type="progress", mode="full", stage="denoise")
        page.close()
        engine.error, engine.fail_at = RuntimeError("no memory"), "denoise"
        while desk._renders:
            await asyncio.sleep(0.01)
        engine.fail_at = None
        back = Page(desk, "tab")
        assert "stumbled" in (await back.until(type="error", mode="full", generation=1))["message"]
        back.close()
    run(scenario, engine)


class NarrowEngine(FakeEngine):
    """Has room for one of its two models."""

    def describe(self):
        return {**super().describe(), "live_pauses": True}


def test_previews_wait_for_a_full_render_where_both_models_do_not_fit_and_pages_are_told():
    engine = NarrowEngine(step_s=0.02)

    async def scenario(desk):
        page, other = Page(desk), Page(desk)
        page.edit(1, "a robot")
        clip = await page.until(type="clip", generation=1, kind=TURBO)
        page.render(2, "a robot", num_steps=30)
        await page.until(type="progress", generation=2, stage="denoise", step=1)
        page.edit(3, "a rocket")
        page.edit(4, "a ship")
        for each in (page, other):
            assert (await each.until(type="live", paused=True))
        late = Page(desk)
        assert (await late.until(type="live"))["paused"]
        await page.until(type="clip", kind=FULL)
        await page.until(type="clip", generation=4, kind=TURBO)
        assert prompts(engine.requests) == ["a penguin", "a robot", "a robot", "a ship"] and clip["seed"] == 7
        assert [m["paused"] for m in page.of("live")] == [False, True, False]
        page.render(5, "a cat", num_steps=50)
        await page.until(type="progress", generation=5, stage="denoise", step=1)
        desk.cancel(page.session)                               # one that is cancelled lets them go, too
        page.edit(6, "a dog")
        await page.until(type="clip", generation=6, kind=TURBO)
        page.close(), other.close(), late.close()
    run(scenario, engine)


def test_a_waiting_preview_goes_before_a_waiting_full_render():
    engine = FakeEngine(step_s=0.05)

    async def scenario(desk):
        page = Page(desk)
        page.edit(1, "a robot")
        await page.until(type="progress")
        page.render(2, "a robot", num_steps=5)
        page.edit(3, "a ship")
        await page.until(type="clip", kind=FULL)
        assert prompts(engine.finished)[-2:] == ["a ship", "a robot"]
        page.close()
    run(scenario, engine)


def test_cancel_stops_a_full_render_within_a_step_and_live_goes_on():
    engine = FakeEngine(step_s=0.05)

    async def scenario(desk):
        page = Page(desk)
        page.render(1, "a robot", num_steps=50)
        await page.until(type="progress", mode="full", stage="denoise", step=2)
        desk.cancel(page.session)
        page.edit(2, "a ship")
        await page.until(type="cancelled", generation=1)
        await page.until(type="clip", generation=2, kind=TURBO)
        assert prompts(engine.stopped) == ["a robot"]
        assert max(m["step"] for m in page.of("progress") if m["mode"] == "full" and m["stage"] == "denoise") <= 4
        assert not [m for m in page.of("clip") if m["kind"] == FULL]
        page.close()
    run(scenario, engine)


# -- faults ------------------------------------------------------------------------------------------------------------

def test_an_impossible_request_is_one_line_and_the_next_edit_works():
    async def scenario(desk):
        page = Page(desk)
        page.edit(1, "   ")
        assert "expected a few words" in (await page.until(type="error", generation=1))["message"]
        page.edit(2, "x" * 10_000)
        assert "shorten it" in (await page.until(type="error", generation=2))["message"]
        page.edit(3, "a robot", sampler="nonsense")
        assert "nonsense" in (await page.until(type="error", generation=3))["message"]
        page.edit(4, "a robot")
        await page.until(type="clip", generation=4, kind=TURBO)
        page.close()
    run(scenario)


def test_a_bug_in_the_engine_costs_one_job(caplog):
    engine = FakeEngine()

    async def scenario(desk):
        page = Page(desk)
        engine.fail_at, engine.error = "denoise", ZeroDivisionError("oops")
        page.edit(1, "a robot")
        message = (await page.until(type="error", generation=1))["message"]
        assert "ZeroDivisionError" in message and "oops" not in message
        engine.error = None
        page.edit(2, "a robot")     # the same words again are a new try
        await page.until(type="clip", generation=2, kind=TURBO)
        page.close()
    run(scenario, engine)
    assert "oops" in caplog.text    # the traceback is in the log


def test_an_engine_that_cannot_load_says_why_to_pages_open_and_opening():
    def broken():
        raise WeightsError("student.safetensors: expected 30 MB, found 3; fetch it again")

    async def scenario():
        desk = Desk(broken, OPENING)
        before = Page(desk)
        desk.start()
        assert "fetch it again" in (await before.until(type="engine", state="failed"))["message"]
        after = Page(desk)
        assert "fetch it again" in (await after.until(type="engine", state="failed"))["message"]
        after.edit(1, "a robot")    # asks in vain, and breaks nothing
        before.close()
        after.close()
        desk.stop()
    asyncio.run(scenario())


def test_loading_never_blocks_the_event_loop_and_edits_made_meanwhile_count():
    gate = threading.Event()
    engine = FakeEngine()

    def slow():
        gate.wait(10)
        return engine

    async def scenario():
        desk = Desk(slow, OPENING)
        desk.start()
        page = Page(desk)
        assert await page.until(type="engine", state="loading")
        page.edit(1, "a robot")
        page.edit(2, "a rocket")
        gate.set()
        await page.until(type="clip", generation=2, kind=TURBO)
        assert "a robot" not in prompts(engine.requests)
        page.close()
        desk.stop()
    asyncio.run(scenario())


# -- patience, outbox, clips, messages -------------------------------------------------------------------------------------

@pytest.mark.parametrize("first_s, clip_s, elapsed_s, picture_age_s, gives_up", [
    (0.4, 1.5, 0.3, 0.1, True),      # a picture just came, little is done
    (0.4, 1.5, 0.3, 0.9, False),     # the screen would starve
    (0.4, 1.5, 0.9, 0.1, False),     # more than half is done
    (0.05, 0.24, 0.11, 0.01, False), # as good as done
    (3.0, 9.0, 1.0, 0.1, True),
    (3.0, 9.0, 1.0, 0.5, False),     # a slow engine shows something at its own pace
])
def test_patience(first_s, clip_s, elapsed_s, picture_age_s, gives_up):
    patience = Patience()
    patience.measured(first_s, clip_s)
    patience.picture_landed(100.0 - picture_age_s)
    assert patience.gives_up(0.0, elapsed_s, 100.0) is gives_up


def test_patience_before_anything_was_measured_goes_by_steps():
    patience = Patience()
    assert not patience.gives_up(0.25, 0.1, 100.0)      # no picture ever: never starve
    patience.picture_landed(99.9)
    assert patience.gives_up(0.25, 0.1, 100.0) and not patience.gives_up(0.5, 0.1, 100.0)


def test_patience_keeps_pictures_coming_while_someone_types():
    """A key every 120 ms for 6 s on an engine of 0.5 s to the first picture and 1.5 s to the whole clip, checked at steps of 0.25 s."""
    def pictures(policy) -> list[float]:
        patience, now, shown = Patience(), 0.0, []
        patience.measured(0.5, 1.5)
        while now < 6.0:
            for tick in range(1, 7):
                if tick == 2:
                    shown.append(now + 0.5)
                    patience.picture_landed(now + 0.5)
                if policy(patience, tick * 0.25, now + tick * 0.25):
                    break
            now += tick * 0.25
        return shown

    ours = pictures(lambda patience, elapsed_s, now: patience.gives_up(0, elapsed_s, now))
    always = pictures(lambda *_: True)
    assert always == []                                  # the broken variant that this test must catch
    assert len(ours) >= 4 and max(b - a for a, b in zip(ours, ours[1:])) <= 1.5


def test_outbox_takes_back_what_was_overtaken():
    async def scenario():
        outbox = Outbox()
        outbox.put(["hello"])
        outbox.put(["clip 1", b"1.0", b"1.1"], "turbo")
        outbox.put(["full", b"f.0"], "full")
        assert await outbox.next() == "hello" and await outbox.next() == "clip 1"
        outbox.put(["clip 2", b"2.0"], "turbo")
        assert [await outbox.next() for _ in range(len(outbox))] == ["full", b"f.0", "clip 2", b"2.0"]
        waiting = asyncio.create_task(outbox.next())
        await asyncio.sleep(0)
        assert not waiting.done()
        outbox.put(["late"])
        assert await waiting == "late"
    asyncio.run(scenario())


def kept(seed: int, mib: float = 1.0) -> Clip:
    result = Result(np.zeros((1, 1, int(mib * 2**20), 1), np.uint8), np.zeros(0), 16, {}, {})
    return Clip(Edit(1, "a robot", seed), result, [], 0.0)


def test_clips_keep_the_last_used():
    clips = Clips(keep_mib=2)
    first, second, third = (kept(seed) for seed in range(3))
    clips.add(first)
    clips.add(second)
    assert clips.find(Edit(9, " a  robot ", 0)) is first        # used now, so the second is the oldest
    clips.add(third)
    assert [clips.get(clip.id) for clip in (first, second, third)] == [first, None, third]
    assert clips.get("../../etc/passwd") is None and clips.find(Edit(9, "a robot", 1)) is None
    clips.add(again := kept(2))
    assert clips.get(third.id) is None and clips.find(third.edit) is again and clips.get(first.id) is first
    clips.add(large := kept(9, mib=50))
    assert clips.get(large.id) is large and clips.get(again.id) is None
    clips.add(kept(10))
    clips.add(kept(11))
    assert clips.get(large.id) is None and clips.find(Edit(1, "a robot", 10))    # its room is free again


@pytest.mark.parametrize("prompt, name", [
    ("a Penguin, bouncing!", "rushes-a-penguin-bouncing-seed3-turbo.mp4"),
    ("../../etc/passwd\r\nX: y", "rushes-etc-passwd-x-y-seed3-turbo.mp4"),
    ("🦊 狐", "rushes-clip-seed3-turbo.mp4"),
])
def test_file_names_are_made_of_letters_and_digits(prompt, name):
    assert Clip(Edit(1, prompt, 3), None, [], 0.0).file_name == name


@given(st.one_of(st.text(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["op", "prompt", "seed", "generation", "num_steps", "sampler"]), inner), max_leaves=8,
).map(json.dumps)))
def test_a_message_is_read_or_refused_in_plain_words(text):
    try:
        op, edit = read_message(text)
    except ValueError as error:
        assert "; " in str(error)       # a way out
    else:
        assert op == "cancel" or edit.request()


def test_messages_become_edits():
    text = json.dumps({"op": "edit", "generation": 4, "prompt": " a fox ", "seed": 9, "num_steps": 2, "sampler": "ode"})
    assert read_message(text) == ("edit", Edit(4, " a fox ", 9, "turbo", 2, "ode"))
    text = json.dumps({"op": "final", "generation": 5, "prompt": "a fox", "seed": 9, "num_steps": 20, "sampler": "ode"})
    assert read_message(text) == ("final", Edit(5, "a fox", 9, "full", 20, None))
    for broken in ({"op": "edit", "generation": 1, "prompt": "a", "seed": 1.5}, {"op": "edit", "generation": 1, "prompt": 3, "seed": 1},
                   {"op": "edit", "generation": True, "prompt": "a", "seed": 1}, {"op": "quit"}, [], {"op": "edit", "prompt": "a"}):
        with pytest.raises(ValueError):
            read_message(json.dumps(broken))
    with pytest.raises(ValueError, match="shorten"):
        read_message("x" * 50_000)


def test_the_examples_are_made_of_taught_words():
    engine = FakeEngine()
    for example in EXAMPLES:
        assert engine.check_prompt(example).unknown_words == (), example
    assert engine.check_prompt("a fox spinning in a snowy field").unknown_words     # what an example must not be


def test_every_motion_of_the_world_can_be_put_into_a_prompt():
    page = describe_page(FakeEngine().preset)
    assert len(page["world"]["subjects"]) > 100 and len(page["world"]["scenes"]) == 10
    assert [place["insert"] for place in page["world"]["places"]] == ["on the left", "in the middle", "on the right"]
    texts = [item["insert"] for items in page["world"].values() for item in items]
    texts += [phrase for items in page["world"].values() for item in items for phrase in item["phrases"]]
    assert not [text for text in texts if "{" in text or not text]
    json.dumps(page)


def test_the_engine_refuses_what_the_desk_lets_through():
    """The desk does not judge requests: `Engine.generate` does, and raises before any work."""
    with pytest.raises(RequestError):
        FakeEngine().generate(Edit(1, " ", 0).request())


# -- another model -----------------------------------------------------------------------------------------------------

def named(name: str, **options) -> FakeEngine:
    return FakeEngine(replace(FakeEngine().preset, name=name), **options)


class SlowToLoad(FakeEngine):
    """Loads until it is closed."""

    def load(self, on_state=None):
        on_state("loading", "Reading the networks, 1.2 of 28.6 GB")
        self.closed = threading.Event()
        assert self.closed.wait(20)
        raise RequestError("engine: it is being closed")

    def close(self):
        self.closed.set()


def test_another_model_takes_the_place_of_the_one_that_runs_and_what_was_asked_of_it_comes_from_it():
    old, new = FakeEngine(step_s=0.05), named("other")
    other_opening = replace(OPENING, prompt="a balloon", preset="other")

    async def scenario(desk):
        page = Page(desk, "tab")
        page.render(1, "a robot", num_steps=60)
        await page.until(type="progress", generation=1, stage="denoise", step=1)
        desk.switch(lambda: new, other_opening)
        assert "Another model was chosen" in (await page.until(type="error", generation=1, mode="full"))["message"]
        page.edit(2, "a rocket", preset="pocket")               # asked of the old one, just before the page heard
        page.edit(3, "a ship", preset="other")
        await page.until(type="clip", generation=3, kind=TURBO)
        states = [m["state"] for m in page.of("engine")]
        assert states[-2:] == ["loading", "ready"] and page.of("engine")[-1]["about"]["preset"] == "other"
        assert not old.loaded and "a robot" in prompts(old.stopped) and "a rocket" not in prompts(old.requests + new.requests)
        assert prompts(new.requests) == ["a balloon", "a ship"]
        page.edit(4, "a ship", preset="pocket")
        await page.until(type="dropped", generation=4)          # not the other model's clip of these words
        page.render(5, "a ship", preset="pocket")
        assert "ask again" in (await page.until(type="error", generation=5, mode="full"))["message"]
        page.render(6, "a ship", preset="other")
        await page.until(type="clip", generation=6, kind=FULL)
        page.close()
    run(scenario, old)


def test_what_a_page_asks_as_soon_as_it_hears_of_another_model_is_made():
    pocket = FakeEngine().preset
    models = Models(pocket, lambda preset: named(preset.name), others=[replace(pocket, name="other")], why_not=lambda preset: "")

    async def scenario(desk):
        page, tell_all = Page(desk), desk.tell_all

        def told_and_answered(message, **options):
            tell_all(message, **options)
            asking = threading.Thread(target=page.edit, args=(1, "a ship"), kwargs={"preset": "other"})
            asking.start()
            asking.join(0.5)                                    # the engine of before has time to take it, were it let

        while desk.state != "ready":
            await asyncio.sleep(0.01)
        desk.tell_all = told_and_answered
        models.switch(desk, "other")
        await page.until(type="clip", generation=1, kind=TURBO)
        assert "dropped" not in {message["type"] for message in page.messages}
        page.close()
    run(scenario)


def test_a_model_that_cannot_be_loaded_says_why_and_the_old_one_can_be_gone_back_to():
    class Broken(FakeEngine):
        def load(self, on_state=None):
            raise WeightsError("turbo.safetensors: expected a whole file, found one cut short; get it again")

    async def scenario(desk):
        page = Page(desk)
        desk.switch(Broken, None)
        assert "cut short" in (await page.until(type="engine", state="failed"))["message"]
        page.edit(1, "a ship")                                  # waits
        desk.switch(named("pocket").load, OPENING)
        await page.until(type="clip", generation=1, kind=TURBO)
        assert desk.state == "ready"
        page.close()
    run(scenario)


def test_while_one_model_loads_another_can_be_chosen():
    async def scenario(desk):
        page, slow = Page(desk), SlowToLoad()
        desk.switch(lambda: slow, None)
        assert (await page.until(type="engine", message="Reading the networks, 1.2 of 28.6 GB"))["state"] == "loading"
        desk.switch(lambda: named("other"), None)
        page.edit(1, "a ship", preset="other")
        await page.until(type="clip", generation=1, kind=TURBO)
        assert "failed" not in {m["state"] for m in page.of("engine")}
        page.close()
    run(scenario)


def test_the_app_can_end_while_another_model_loads():
    async def scenario(desk):
        page, slow = Page(desk), SlowToLoad()
        desk.switch(lambda: slow, None)
        await page.until(type="engine", message="Reading the networks, 1.2 of 28.6 GB")
        page.close()
    run(scenario)


def test_the_models_of_an_app_are_offered_with_a_reason_where_they_cannot_run():
    pocket = FakeEngine().preset
    models = Models(pocket)
    offers = {offer["name"]: offer for offer in models.offers()}
    assert set(list_presets()) == set(offers) and offers["pocket"]["why_not"] == ""
    far = offers["wan2.2-i2v-a14b-720p"]
    assert "turbo high-noise network" in far["why_not"] and "from a picture and words to 1280 × 720" in far["about"]
    with pytest.raises(PresetError, match="expected one of pocket"):
        models.switch(None, "nothing")


def test_a_page_hears_of_the_new_model_before_its_engine_and_the_failed_one_can_be_tried_again():
    made = []
    pocket = FakeEngine().preset
    other = replace(pocket, name="other")

    def make_engine(preset):
        made.append(preset.name)
        return named(preset.name)

    models = Models(pocket, make_engine, others=[other, replace(pocket, name="far")], why_not=lambda preset: "No weights." if preset.name == "far" else "")

    async def scenario(desk):
        page = Page(desk)
        with pytest.raises(WeightsError, match="No weights"):
            models.switch(desk, "far")
        models.switch(desk, "other")
        hello = await page.until(type="hello")
        assert (hello["preset"], hello["previous"]) == ("other", "pocket")
        await page.until(type="engine", state="ready", message="")
        order = [m["type"] for m in page.messages if m["type"] in ("hello", "engine")]
        assert order[:3] == ["engine", "hello", "engine"]
        while desk.state != "ready":
            await asyncio.sleep(0.01)
        models.switch(desk, "other")                            # it runs: nothing to do
        models.switch(desk, "pocket")
        while desk.about.get("preset") != "pocket":
            await asyncio.sleep(0.01)
        assert made == ["other", "pocket"]
        page.close()
    run(scenario)
