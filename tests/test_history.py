"""The history as the page meets it: what was made is kept, found, shown again as it was, starred, deleted and brought back."""
import asyncio
import time
from dataclasses import replace

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from turbo_engine.errors import OutputError
from turbo_engine.fake import FakeEngine
from turbo_engine.store import Store, StoreError
from turbo_engine.types import Request
from ui.archive import MOST_WAITING, Archive
from ui.clips import Clip, Clips, Edit
from ui.handlers import read_message
from ui.history import PAGE, add_history_routes
from ui.session import FULL, TURBO

from test_live import Page, open_desk

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def archive(tmp_path):
    archive = Archive(Store(tmp_path))
    yield archive
    archive.close()


@pytest.fixture
def client(archive):
    app = FastAPI()
    add_history_routes(app, archive)
    return TestClient(app)


def make(prompt: str, seed: int = 7, mode: str = "turbo", num_steps: int | None = None) -> Clip:
    edit = Edit(1, prompt, seed, mode, num_steps)
    *_, result = FakeEngine().load().generate(Request(prompt, seed, mode, num_steps=num_steps))
    return Clip(edit, result, [], 0.0)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_pages_make_is_kept_told_and_shown_again_as_it_was(tmp_path):
    """Over a restart: the same frames, to a float16 latent's rounding, without making them again."""
    made = {}

    async def first(desk):
        page = Page(desk)
        page.edit(1, "a robot", seed=3)
        await page.until(type="clip", generation=1, kind=TURBO)
        page.render(2, "a robot", num_steps=4)
        await page.until(type="clip", generation=2, kind=FULL)
        for mode in ("turbo", "full"):
            kept = [m["entry"] for m in page.of("kept") if m["entry"]["mode"] == mode and m["entry"]["prompt"] == "a robot"]
            while not kept:
                await asyncio.sleep(0.02)
                kept = [m["entry"] for m in page.of("kept") if m["entry"]["mode"] == mode and m["entry"]["prompt"] == "a robot"]
            made[mode] = kept[0]
        made["frames"] = desk.clips.find(Edit(0, "a robot", 7, "full", 4)).result.frames
        page.close()

    async def second(desk, engine):
        page = Page(desk)
        asked = len(engine.requests)
        desk.edit(page.session, desk.archive.edit_of(made["turbo"]["id"], 1))
        clip = await page.until(type="clip", generation=1, kind=TURBO)
        assert clip["prompt"] == "a robot" and clip["seed"] == 3 and await page.whole(1, TURBO) == list(range(33))
        desk.render(page.session, desk.archive.edit_of(made["full"]["id"], 2))
        clip = await page.until(type="clip", generation=2, kind=FULL)
        assert clip["recipe"]["num_steps"] == 4
        again = desk.clips.get(clip["id"]).result.frames
        assert again.shape == made["frames"].shape and np.abs(again.astype(int) - made["frames"]).max() <= 2
        assert len(engine.requests) == asked
        page.close()

    async def both():
        async with open_desk(FakeEngine(), archive=Archive(Store(tmp_path))) as desk:
            await first(desk)
        engine = FakeEngine()
        async with open_desk(engine, archive=Archive(Store(tmp_path))) as desk:
            await second(desk, engine)
    asyncio.run(both())


@pytest.mark.clock
def test_clips_are_written_in_a_pause_and_all_of_them_at_the_end(tmp_path):
    archive = Archive(Store(tmp_path))
    kept, clips = [], [make(f"a robot {i}") for i in range(9)]     # made first: that takes a good part of a pause by itself
    archive.on_kept = lambda entry: kept.append(entry.prompt)
    for clip in clips[:5]:
        archive.engine_busy()
        archive.keep(clip)
        time.sleep(0.05)
        assert not kept                                         # the engine was busy just now
    wait_for(lambda: len(kept) == 5)
    for clip in clips[5:]:
        archive.engine_busy()
        archive.keep(clip)
    archive.close()
    assert kept == [f"a robot {i}" for i in range(9)]
    with Store(tmp_path) as store:
        assert [entry.prompt for entry in store.list()] == [f"a robot {i}" for i in reversed(range(9))]


def test_memory_is_bounded_while_the_engine_never_rests(archive):
    kept, clip = [], make("a robot")
    archive.on_kept = kept.append
    for _ in range(MOST_WAITING + 3):
        archive.engine_busy()
        archive.keep(clip)
    wait_for(lambda: kept)


def test_a_clip_that_cannot_be_kept_is_told_and_the_next_one_is(archive, monkeypatch):
    kept, trouble = [], []
    archive.on_kept, archive.on_trouble = kept.append, trouble.append
    with monkeypatch.context() as patch:
        def full(*_, **__):
            raise OutputError("history: expected room on the disk, found none; free some space")
        patch.setattr(archive.store, "add", full)
        archive.keep(make("a robot"))
        wait_for(lambda: trouble)
    archive.keep(make("a ship"))
    wait_for(lambda: kept)
    assert "free some space" in trouble[0] and kept[0].prompt == "a ship"


def test_list_search_and_pages(client, archive):
    for i in range(PAGE + 5):
        archive.store.add(make(f"a {'robot' if i % 2 else 'ship'} number {i}", seed=i).result)
    first = client.get("/rt/history").json()
    assert len(first["entries"]) == PAGE and first["more"] and first["entries"][0]["prompt"].endswith(f"number {PAGE + 4}")
    rest = client.get("/rt/history", params={"before": first["entries"][-1]["created"]}).json()
    assert [entry["seed"] for entry in rest["entries"]] == [4, 3, 2, 1, 0] and not rest["more"]
    found = client.get("/rt/history", params={"q": "SHIP 64"}).json()["entries"]
    assert [entry["prompt"] for entry in found] == ["a ship number 64"]


def test_star_delete_and_undo(client, archive):
    entry = archive.store.add(make("a robot").result)
    assert client.get(f"/rt/history/{entry.id}.jpg").content[:2] == b"\xff\xd8"
    assert client.post(f"/rt/history/{entry.id}/star", json={"on": True}).json() == {"starred": True}
    assert client.get("/rt/history", params={"starred": True}).json()["entries"][0]["id"] == entry.id
    assert client.delete(f"/rt/history/{entry.id}").status_code == 200
    assert client.get("/rt/history").json()["entries"] == []
    back = client.post(f"/rt/history/{entry.id}/undelete").json()
    assert back["id"] == entry.id and back["starred"]


@pytest.mark.parametrize("clip_id", ["x" * 16, "..%2f..%2fetc%2fpasswd", "%00", "a" * 3_000])
def test_ids_that_are_none_are_a_plain_404(client, clip_id):
    for reply in (client.get(f"/rt/history/{clip_id}.jpg"), client.delete(f"/rt/history/{clip_id}"),
                  client.post(f"/rt/history/{clip_id}/star", json={"on": True}), client.post(f"/rt/history/{clip_id}/undelete")):
        assert reply.status_code == 404


def test_a_clip_that_is_gone_cannot_be_opened(archive):
    op, edit = read_message('{"op": "open", "generation": 3, "id": "../../etc/passwd"}')
    assert op == "open" and edit.generation == 3
    with pytest.raises(Exception, match="no longer in the history"):
        archive.edit_of(edit.saved, edit.generation)


def test_an_opened_clip_counts_as_the_edit_that_made_it():
    assert Edit(1, "a robot", 7, "turbo", 4, "ode", saved="x").key == Edit(2, "a  robot", 7, "turbo", 4, "ode").key
    assert Clips().find(Edit(1, "a robot", 7)) is None


def test_a_clip_of_another_model_is_seen_by_its_file_and_no_decoder_of_this_one_touches_its_latent(archive):
    clip = make("a robot")
    kept = archive.store.add(replace(clip.result, recipe={**clip.result.recipe, "preset": "other"}))

    def decode(latent):
        raise AssertionError("these numbers mean nothing to this decoder")
    seen = archive.recall(kept.id, decode, "pocket")
    assert seen.frames.shape == clip.result.frames.shape and np.abs(seen.frames.astype(int) - clip.result.frames).mean() < 3
    assert archive.recall(kept.id, lambda latent: clip.result.frames, "other").frames is clip.result.frames
    kept.mp4.write_bytes(b"broken")
    with pytest.raises(StoreError, match="cannot be played"):
        archive.recall(kept.id, decode, "pocket")
