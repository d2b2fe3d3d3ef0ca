"""Exports through their routes: what is asked for is what comes out, a job can be watched and stopped, and a file gives its shot back."""
import io
import time

import av
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from test_history import make

from ui.clips import Clips
from ui.exports import JOBS_KEPT, add_export_routes

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def clips():
    clips = Clips()
    for clip in (make("a robot"), make("a robot", mode="full", num_steps=4)):
        clips.add(clip)
    return clips


@pytest.fixture(scope="module")
def ids(clips):
    return {mode: next(clip.id for clip in clips._by_id.values() if clip.edit.mode == mode) for mode in ("turbo", "full")}


@pytest.fixture
def client(clips):
    app = FastAPI()
    add_export_routes(app, clips)
    return TestClient(app)


def finished(client, wish: dict) -> dict:
    job = client.post("/rt/export", json=wish).json()
    deadline = time.monotonic() + 60
    while job["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
        job = client.get(f"/rt/export/{job['job']}").json()
    return job


def test_a_trimmed_scaled_mp4_is_just_that_and_gives_its_shot_back(client, ids):
    job = finished(client, {"a": ids["turbo"], "format": "mp4", "scale": 0.5, "trim_in": 4, "trim_out": 19, "loops": 2})
    assert (job["state"], job["share"], job["name"]) == ("done", 1.0, "rushes-a-robot-seed7-turbo.mp4")
    reply = client.get(f"/rt/export/{job['job']}/file")
    assert reply.headers["content-type"] == "video/mp4" and "attachment" in reply.headers["content-disposition"]
    with av.open(io.BytesIO(reply.content)) as video:
        assert video.streams.video[0].average_rate == 16 and video.streams.video[0].width == 128
        assert sum(1 for _ in video.decode(video=0)) == 2 * 16
    back = client.post("/rt/recipe", content=reply.content).json()
    assert (back["prompt"], back["seed"], back["mode"], back["preset"]) == ("a robot", 7, "turbo", "pocket")


def test_every_format_on_the_menu_is_made_and_read_back(client, ids):
    for kind in client.get("/rt/formats").json():
        job = finished(client, {"a": ids["full"], "format": kind["name"], "scale": 0.25, "trim_out": 8})
        assert job["state"] == "done", (kind, job)
        data = client.get(f"/rt/export/{job['job']}/file").content
        assert len(data) == job["bytes"] and job["name"].endswith(kind["extension"])
        assert client.post("/rt/recipe", content=data).json()["num_steps"] == 4, kind


def test_side_by_side_is_twice_as_wide_and_estimated(client, ids):
    wish = {"a": ids["turbo"], "b": ids["full"], "format": "mp4", "strip_recipe": True}
    assert 1_000 < client.post("/rt/export/estimate", json=wish).json()["bytes"] < 5_000_000
    job = finished(client, wish)
    data = client.get(f"/rt/export/{job['job']}/file").content
    with av.open(io.BytesIO(data)) as video:
        assert video.streams.video[0].width >= 512 and video.streams.video[0].height > 256
    assert b"a robot" not in data and client.post("/rt/recipe", content=data).status_code == 422


def test_a_job_can_be_stopped(client, ids):
    job = client.post("/rt/export", json={"a": ids["turbo"], "format": "gif", "scale": 4}).json()
    assert client.get(f"/rt/export/{job['job']}/file").status_code == 409
    client.delete(f"/rt/export/{job['job']}")
    deadline = time.monotonic() + 20
    while (state := client.get(f"/rt/export/{job['job']}").json()["state"]) == "running":
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert state == "cancelled"


def test_only_the_newest_files_are_kept(client, ids):
    jobs = [finished(client, {"a": ids["turbo"], "format": "png"})["job"] for _ in range(JOBS_KEPT + 1)]
    assert client.get(f"/rt/export/{jobs[0]}").status_code == 404 and client.get(f"/rt/export/{jobs[-1]}").status_code == 200


@pytest.mark.parametrize("wish, status, said", [
    ({"a": "gone", "format": "mp4"}, 404, "no longer kept"),
    ({"format": "mp4"}, 404, "no longer kept"),
    ({"a": "TURBO", "b": "gone", "format": "mp4"}, 404, "no longer kept"),
    ({"a": "TURBO", "format": "avi"}, 422, "format"),
    ({"a": "TURBO", "format": "mp4", "scale": 99}, 422, "scale"),
    ({"a": "TURBO", "format": "mp4", "trim_in": 20, "trim_out": 3}, 422, "trim_out"),
    ({"a": "TURBO", "format": ["mp4"]}, 422, ""),
])
def test_what_cannot_be_is_refused_in_plain_words(client, ids, wish, status, said):
    wish = {key: ids["turbo"] if value == "TURBO" else value for key, value in wish.items()}
    for path in ("/rt/export", "/rt/export/estimate"):
        reply = client.post(path, json=wish)
        assert reply.status_code == status and said in reply.json()["detail"]


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"PK\x03\x04" + b"\0" * 100, b"\x89PNG\r\n\x1a\n", b"<html>", b"\0" * 2_000_000])
def test_foreign_files_are_refused_in_plain_words(client, data):
    reply = client.post("/rt/recipe", content=data, headers={"x-file-name": "holiday.mp4"})
    assert reply.status_code == 422 and isinstance(reply.json()["detail"], str)
