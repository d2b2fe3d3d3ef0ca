"""GET /rt/compare/{a}/{b}: how alike two kept clips are, from their lossless frames."""

import asyncio
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
from turbo_engine.types import Request
from ui.clips import Clip, Edit
from ui.handlers import OPENING, add_routes
from ui.live import Desk
from ui.scores import Scores, score

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


@pytest.mark.parametrize("other", [{"frames": np.zeros((5, 256, 256, 3), np.uint8)}, {"fps": 8}])
def test_clips_that_do_not_fit_are_refused_in_plain_words(pair, other):
    with pytest.raises(ValueError, match="256 x 256, 9 frames at 16 fps, the other 256 x 256, .* same size, length and rate"):
        score(pair[0], clip(**other))


@pytest.fixture
def desk() -> Desk:
    return Desk(FakeEngine, OPENING)


def get(desk: Desk, path: str, tmp_path) -> httpx.Response:
    app = FastAPI(openapi_url=None)
    add_routes(app, desk, FakeEngine().preset, tmp_path)

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
    short = clip(pair[0].result.frames[:5], "full")
    desk.clips.add(short)
    reply = get(desk, f"/rt/compare/{pair[0].id}/{short.id}", tmp_path)
    assert reply.status_code == 409 and "9 frames at 16 fps, the other 256 x 256, 5 frames" in reply.json()["detail"]


def test_a_clip_against_itself_is_equal_everywhere(desk, pair, tmp_path):
    """And JSON has no infinity."""
    desk.clips.add(pair[0])
    assert get(desk, f"/rt/compare/{pair[0].id}/{pair[0].id}", tmp_path).json() == {"psnr_db": [None] * 9, "ssim": [1.0] * 9, "fps": 16}
