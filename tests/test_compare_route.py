"""GET /rt/compare/{a}/{b}: how alike two kept clips are, from their lossless frames."""

import asyncio
import json
import math
import threading
from dataclasses import replace

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

import turbo_engine.compare
from turbo_engine.compare import psnr, ssim
from turbo_engine.fake import FakeEngine
from turbo_engine.resample import by_time, resized
from turbo_engine.store import Store
from turbo_engine.types import Request
from ui.archive import Archive
from ui.clips import Clip, Edit
from ui.handlers import _obey, add_routes, read_message
from ui.live import Desk
from ui.session import PICKED_A, PICKED_B, TURBO
from ui.models import OPENING, Models
from ui.pictures import Pictures
from ui.scores import Scores, score

from test_live import Page, run

pytestmark = pytest.mark.timeout(60)


def clip(frames: np.ndarray | None = None, mode: str = "turbo", fps: int | None = None) -> Clip:
    *_, result = FakeEngine().generate(Request("a robot", 7, mode, num_frames=9))
    changes = {} if frames is None else {"frames": frames}
    return Clip(Edit(1, "a robot", 7, mode), replace(result, **changes, **({} if fps is None else {"fps": fps})), [], 0.0)


@pytest.fixture
def pair() -> tuple[Clip, Clip]:
    """Turbo, and a full clip that is equal to it in its first frame only."""
    turbo = clip()
    frames = turbo.result.frames.copy()
    frames[1:] = np.random.default_rng(0).integers(0, 256, frames[1:].shape, np.uint8) // 4 + frames[1:] // 4 * 3
    return turbo, clip(frames, "full")


def test_the_numbers_are_those_of_the_lossless_frames(pair):
    a, b = pair
    found = score(a, b)
    assert found["fps"] == 16 and len(found["ssim"]) == len(found["psnr_db"]) == 9
    assert found["psnr_db"][0] is None and found["ssim"][0] == 1        # equal: infinitely many decibels, null in JSON
    np.testing.assert_allclose(found["ssim"], ssim(a.result.frames, b.result.frames), atol=1e-4)
    np.testing.assert_allclose(found["psnr_db"][1:], psnr(a.result.frames, b.result.frames)[1:], atol=0.01)
    assert all(math.isfinite(db) for db in found["psnr_db"][1:])


def test_a_pair_is_measured_once_either_way_round_and_the_oldest_is_forgotten(pair, monkeypatch):
    a, b = pair
    c, made = clip(), []
    monkeypatch.setattr(turbo_engine.compare, "ssim", lambda x, y: made.append(1) or np.ones(len(x)))
    scores = Scores(keep=2)
    assert scores.of(a, b) is scores.of(b, a) and len(made) == 1
    scores.of(a, c)
    scores.of(a, b)                     # used again, so the other one goes
    scores.of(b, c)
    scores.of(a, b)
    assert len(made) == 3
    scores.of(a, c)
    assert len(made) == 4


@pytest.mark.parametrize("other", [{"fps": 8}, {"fps": 24}, {"length": 5}, {"size": 128}])
def test_clips_of_other_rates_lengths_and_sizes_are_measured_as_they_are_seen(pair, other):
    """Tick by tick of the faster one's clock, the shorter on its last frame, both at the larger size."""
    frames = pair[1].result.frames[:other.get("length", 9)]
    if "size" in other:
        frames = np.stack([resized(frame, (128, 128)) for frame in frames])
    found = score(pair[0], clip(frames, fps=other.get("fps")))
    ticks = {8: range(18), 24: range(14)}.get(other.get("fps"), range(9))
    fps = max(16, other.get("fps", 16))
    assert found["fps"] == fps and len(found["ssim"]) == len(ticks)
    one, two = (by_time(length, rate, fps, len(ticks)) for length, rate in ((9, 16), (len(frames), other.get("fps", 16))))
    shown = np.stack([resized(frame, (256, 256)) for frame in frames])
    np.testing.assert_allclose(found["ssim"], ssim(pair[0].result.frames[one], shown[two]), atol=1e-4)


def test_a_smaller_copy_is_measured_the_same_either_way_round(pair):
    small = clip(np.stack([resized(frame, (128, 128)) for frame in pair[0].result.frames]))
    assert score(pair[0], small) == score(small, pair[0])
    assert min(score(pair[0], small)["ssim"]) > 0.98


def test_clips_of_two_shapes_are_refused_in_plain_words(pair):
    with pytest.raises(ValueError, match="one is 256 x 256, the other 256 x 128. Choose two of the same shape"):
        score(pair[0], clip(np.zeros((9, 128, 256, 3), np.uint8)))
    score(pair[0], clip(np.zeros((9, 127, 128, 3), np.uint8)))          # a pixel is rounding


@pytest.fixture
def desk() -> Desk:
    return Desk(FakeEngine, OPENING)


def get(desk: Desk, path: str, tmp_path) -> httpx.Response:
    app = FastAPI(openapi_url=None)
    add_routes(app, desk, Models(FakeEngine().preset), Pictures(tmp_path / "pictures"), tmp_path)

    async def talk():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            return await client.get(path)

    return asyncio.run(talk())


def test_the_route_answers_from_a_thread_of_its_own(desk, pair, tmp_path, monkeypatch):
    """The event loop carries everybody's pictures: what it computes, they wait for."""
    threads = []
    monkeypatch.setattr(turbo_engine.compare, "ssim", lambda x, y: threads.append(threading.current_thread()) or ssim(x, y))
    for one in pair:
        desk.clips.add(one)
    reply = get(desk, f"/rt/compare/{pair[0].id}/{pair[1].id}", tmp_path)
    assert reply.status_code == 200 and reply.headers["cache-control"] == "no-store"
    assert reply.json() == score(*pair)
    assert threads[0] is not threading.main_thread()


def test_a_clip_that_is_gone_is_a_404_in_plain_words(desk, pair, tmp_path):
    desk.clips.add(pair[0])
    for path in (f"{pair[0].id}/{pair[1].id}", f"{pair[1].id}/{pair[0].id}", "x/y", f"{pair[0].id}/%2e%2e"):
        reply = get(desk, f"/rt/compare/{path}", tmp_path)
        assert reply.status_code == 404 and "no longer kept; render it again" in reply.json()["detail"]
    assert get(desk, f"/rt/compare/{pair[0].id}", tmp_path).status_code == 404


def test_clips_of_two_shapes_are_a_409_in_plain_words(desk, pair, tmp_path):
    desk.clips.add(pair[0])
    wide = clip(pair[0].result.frames[:, :128], "full")
    desk.clips.add(wide)
    reply = get(desk, f"/rt/compare/{pair[0].id}/{wide.id}", tmp_path)
    assert reply.status_code == 409 and "one is 256 x 256, the other 256 x 128" in reply.json()["detail"]


def test_a_clip_against_itself_is_equal_everywhere(desk, pair, tmp_path):
    """And JSON has no infinity."""
    desk.clips.add(pair[0])
    assert get(desk, f"/rt/compare/{pair[0].id}/{pair[0].id}", tmp_path).json() == {"psnr_db": [None] * 9, "ssim": [1.0] * 9, "fps": 16}


# -- clips of the history as A and B ------------------------------------------------------------------------------------

def test_two_kept_clips_come_as_a_and_b_and_nothing_else_is_changed(tmp_path):
    """Both decoded from their kept latents, of whatever length; the page's live clip and what it asks for stay as they were."""
    store = Store(tmp_path)
    full, short = clip(mode="full"), clip()
    kept = [store.add(one.result).id for one in (full, short)]

    async def scenario(desk):
        page = Page(desk)
        page.edit(1, "a robot")                     # the words of the kept one, at another length
        await page.whole(1, TURBO)
        words = len(page.of("words"))
        for generation, (place, clip_id) in enumerate(zip("ab", kept), 2):
            _obey(desk, Pictures(tmp_path / "pictures"), page.session, json.dumps({"op": "pick", "place": place, "id": clip_id, "generation": generation}))
        assert await page.whole(2, PICKED_A) == await page.whole(3, PICKED_B) == list(range(9))
        clips = [await page.until(type="clip", generation=generation) for generation in (2, 3)]
        assert [(one["mode"], one["prompt"], one["total"]) for one in clips] == [("full", "a robot", 9), ("turbo", "a robot", 9)]
        np.testing.assert_array_equal(desk.clips.get(clips[0]["id"]).result.frames, FakeEngine().decode(store.latent(kept[0])))
        _obey(desk, Pictures(tmp_path / "pictures"), page.session, json.dumps({"op": "pick", "place": "b", "id": kept[0], "generation": 4}))     # made before
        assert (await page.until(type="clip", generation=4))["id"] == clips[0]["id"]
        page.edit(5, "a  robot")
        assert await page.until(type="same", generation=5, **{"as": 1})
        assert page.session.shown_generation == 1 and len(page.of("words")) == words
        page.close()

    run(scenario, archive=Archive(store))


def test_a_pick_that_cannot_be_had_says_which(tmp_path):
    async def scenario(desk):
        page = Page(desk)
        _obey(desk, Pictures(tmp_path / "pictures"), page.session, json.dumps({"op": "pick", "place": "b", "id": "../../etc/passwd", "generation": 9}))
        assert "no longer in the history" in (await page.until(type="error", mode="b", generation=9))["message"]
        page.close()

    run(scenario, archive=Archive(Store(tmp_path)))


@pytest.mark.parametrize("place", [None, "c", ["a"], 1])
def test_a_pick_for_no_place_is_refused(place):
    with pytest.raises(ValueError, match="expected a or b"):
        read_message(json.dumps({"op": "pick", "id": "x", "generation": 1, "place": place}))
