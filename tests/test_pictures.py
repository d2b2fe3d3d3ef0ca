"""Pictures that clips start from: kept by content, cropped by the engine's own code, forgotten when nothing names them."""
import asyncio
import json
import os
import time
from dataclasses import replace

import cv2
import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from tiny_wan import a_picture

from turbo_engine.errors import OutputError, RequestError
from turbo_engine.fake import FakeEngine
from turbo_engine.picture import cover, read_picture
from turbo_engine.store import Store
from turbo_engine.types import Request
from ui.clips import Edit
from ui.handlers import _obey, read_message
from ui.live import Desk
from ui.session import Session
from ui.pictures import UNUSED_S, Picture, Pictures, add_picture_routes, picture_of


@pytest.fixture
def pictures(tmp_path):
    return Pictures(tmp_path / "pictures")


def test_a_picture_is_known_by_its_content_and_outlives_the_app(pictures, tmp_path):
    kept = pictures.add(a_picture())
    assert kept == picture_of({"image_sha256": kept.id}) and kept.data == a_picture() and picture_of({}) is None
    assert pictures.add(a_picture()).id == kept.id and len(list((tmp_path / "pictures").iterdir())) == 1
    again = Pictures(tmp_path / "pictures")
    assert again.get(kept.id).data == a_picture()
    for stranger in ("", "0" * 64, "../token", kept.id.upper(), kept.id + "/.."):
        assert again.get(stranger) is None


def test_what_is_no_picture_is_not_kept(pictures, tmp_path):
    with pytest.raises(RequestError, match="another kind of file"):
        pictures.add(b"<svg/>")
    assert not (tmp_path / "pictures").exists()
    (tmp_path / "pictures").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="make room"):
        pictures.add(a_picture())


def test_the_sweep_takes_what_no_clip_names_and_no_one_chose_today(pictures, tmp_path):
    used, old, new = (pictures.add(a_picture(channel=channel)).id for channel in range(3))
    for name in (used, old):
        os.utime(tmp_path / "pictures" / name, times=(time.time() - UNUSED_S - 9,) * 2)
    pictures.sweep({used})
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {used, new}


def test_the_history_knows_the_pictures_and_tells_clips_of_two_apart(tmp_path):
    *_, made = FakeEngine().generate(Request("a cat", num_steps=1))
    with Store(tmp_path) as store:
        ids = [store.add(replace(made, recipe={**made.recipe, "image_sha256": name})).id for name in ("a" * 64, "b" * 64)]
        plain = store.add(made)
        assert len(store.list()) == 3 and store.pictures() == {"a" * 64, "b" * 64}
        assert store.find({**made.recipe, "image_sha256": "b" * 64}).id == ids[1] and store.find(made.recipe).id == plain.id


def test_the_routes_keep_show_and_crop(pictures):
    app = FastAPI()
    add_picture_routes(app, pictures)
    with TestClient(app) as client:
        kept = client.post("/rt/picture", content=a_picture(80, 60)).json()
        assert (kept["width"], kept["height"], kept["known"]) == (80, 60, True)
        assert client.get(f"/rt/picture/{kept['id']}").json() == kept
        assert client.get("/rt/picture/" + "0" * 64).json()["known"] is False
        shown = client.get(f"/rt/picture/{kept['id']}/shown.jpg", params={"width": 32, "height": 96}).content
        pixels = cv2.imdecode(np.frombuffer(shown, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        cut = cover(read_picture(a_picture(80, 60)), 32, 96)
        assert pixels.shape == cut.shape == (60, 20, 3) and np.abs(pixels.astype(int) - cut).mean() < 6
        large = client.post("/rt/picture", content=a_picture(2000, 500)).json()["id"]
        assert cv2.imdecode(np.frombuffer(client.get(f"/rt/picture/{large}/shown.jpg").content, np.uint8), 1).shape == (160, 640, 3)
        assert client.get("/rt/picture/" + "0" * 64 + "/shown.jpg").status_code == 404
        refused = client.post("/rt/picture", content=b"<svg/>")
        assert refused.status_code == 422 and "another kind of file" in refused.json()["detail"]


def test_an_edit_names_its_picture_and_two_pictures_are_two_clips(pictures):
    one, two = (pictures.add(a_picture(channel=channel)) for channel in (0, 1))
    text = json.dumps({"op": "edit", "generation": 1, "prompt": "a cat", "seed": 1, "image_sha256": one.id})
    op, edit = read_message(text)
    assert op == "edit" and edit.picture == one and edit.picture.data == b""
    assert Edit(1, "a cat", 1, picture=one).key == edit.key != Edit(1, "a cat", 1, picture=two).key
    assert Edit(1, "a cat", 1, picture=one).request().image == one.data and Edit(1, "a cat", 1).request().image == b""

    async def scenario():
        session, desk = Session(asyncio.get_running_loop()), Desk(FakeEngine, None)
        _obey(desk, pictures, session, text)
        assert session.waiting.picture.data == one.data
        _obey(desk, pictures, session, text.replace(one.id, "f" * 64))
        await asyncio.sleep(0.01)
        assert "choose it again" in await session.outbox.next()
    asyncio.run(scenario())
    assert Picture("x") == Picture("x", b"1")
