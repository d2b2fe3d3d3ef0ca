"""Through code: the end points by gradio_client and as MCP tools on the running app, their place at the desk, and who may not call them."""
import asyncio
import base64
import contextlib
import json
import threading
import time
import warnings
from pathlib import Path

import av
import httpx
import numpy as np
import pytest
from gradio_client import Client

from tests.browser.conftest import POCKET_SHIPPED, App
from tests.conftest import write_preset
from turbo_engine.errors import TurboError, WeightsError
from turbo_engine.fake import FakeEngine
from turbo_engine.recipe_files import read_recipe
from turbo_engine.store import Store
from turbo_engine.types import Request
from ui.archive import Archive
from ui.live import Desk
from ui.session import FULL, TURBO
from ui.mcp import VERSIONS, Tool
from ui.models import Models
from ui.pictures import Pictures

from test_live import OPENING, Page, open_desk, prompts
from test_pictures import a_picture

with warnings.catch_warnings():
    warnings.simplefilter("ignore")         # Gradio's imports, not ours
    from ui import api as api_module
    from ui.api import END_POINTS, FILES_KEPT, Api, Shelf

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning")]
PROMPT = "a cactus growing in the desert and a wug"


# -- the running app ---------------------------------------------------------------------------------------------------

class Running:
    """The front door with the real engine, and what a caller needs to know of it."""

    def __init__(self, app: App, folder: Path):
        self.app, self.folder, self.url = app, folder, app.url
        self.headers = {"Authorization": f"Bearer {(folder / 'token').read_text()}"}

    def client(self, **settings) -> Client:
        return Client(self.url, headers=self.headers, verbose=False, analytics_enabled=False, **settings)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    preset = "pocket" if POCKET_SHIPPED else str(write_preset(tmp_path_factory.mktemp("presets")))
    folder = tmp_path_factory.mktemp("data")
    app = App("app.py", "--preset", preset, "--port", "0", "--no-browser", "--data-dir", str(folder))
    while len(app.lines) < 2:
        time.sleep(0.01)
    yield Running(app, folder)
    assert app.stop() == 0, "".join(app.lines)
    assert len(app.lines) == 2 or all("refused" in line for line in app.lines[2:]), "".join(app.lines)
    assert not (folder / "token").exists()


@pytest.fixture(scope="module")
def client(running, tmp_path_factory):
    client = running.client(download_files=str(tmp_path_factory.mktemp("downloads")))
    yield client
    client.close()


@pytest.fixture(scope="module")
def made(client):
    """A preview made through code: (file, facts)."""
    return client.predict(PROMPT, seed=3, api_name="/preview")


def frames_of(path) -> int:
    with av.open(str(path)) as video:
        return sum(1 for _ in video.decode(video=0))


def test_six_end_points_are_named_and_typed_and_no_other_function_can_be_called(running, client):
    named = client.view_api(return_format="dict", print_info=False)
    assert set(named["named_endpoints"]) == {f"/{name}" for name in END_POINTS} and named["unnamed_endpoints"] == {}
    types = {p["parameter_name"]: (p["python_type"]["type"], p["parameter_has_default"]) for p in named["named_endpoints"]["/preview"]["parameters"]}
    assert types["prompt"] == ("str", False) and types["seed"] == ("int", True) and set(types) == {"prompt", "seed", "num_steps", "size", "num_frames", "image"}
    with httpx.Client(base_url=running.url, headers=running.headers) as raw:
        dependencies = raw.get("/config").json()["dependencies"]
        assert sorted(d["api_name"] for d in dependencies) == sorted(END_POINTS)
        for name in ("picture", "close", "_make", "_clip", "lambda", "predict"):
            assert raw.post(f"/gradio_api/call/{name}", json={"data": ["x"]}).status_code == 404, name
        assert raw.post("/gradio_api/run/preview", json={"data": ["a robot", 1, None]}).status_code == 404    # only through the queue
        assert raw.post("/gradio_api/component_server", json={"data": None, "component_id": 1, "fn_name": "close", "session_hash": "x"}).status_code >= 400


def test_a_preview_is_a_file_with_its_facts_and_is_in_the_history(client, made):
    file, facts = made
    assert (facts["prompt"], facts["seed"], facts["mode"]) == (PROMPT, 3, "turbo") and facts["notes"] == ['Not taught, may be ignored: "wug".']
    assert frames_of(file) == facts["num_frames"] and Path(file).name == "rushes-a-cactus-growing-in-the-desert-and-a-wug-seed3-turbo.mp4"
    recipe = read_recipe(file)
    assert {name: recipe[name] for name in ("prompt", "seed", "num_steps")} == {name: facts[name] for name in ("prompt", "seed", "num_steps")}
    listed = client.predict("cactus desert", api_name="/history")
    assert [clip["clip_id"] for clip in listed] == [facts["clip_id"]] and listed[0]["prompt"] == PROMPT
    again = client.predict(f"  {PROMPT} ", seed=3, api_name="/preview")
    assert again[1] == facts                            # from memory, by the same id
    details = client.predict(facts["clip_id"], api_name="/details")
    assert details["recipe"] == recipe and details["clip_id"] == facts["clip_id"] and details["took_s"] > 0


def test_a_full_render_tells_how_far_it_is(client):
    job = client.submit("a robot spinning", seed=4, negative_prompt="fog", num_steps=6, api_name="/render_full")
    steps = set()
    while not job.done():
        for unit in job.status().progress_data or []:
            assert unit.desc.startswith(f"Step {unit.index} of 6")
            steps.add((unit.index, unit.length))
        time.sleep(0.02)
    file, facts = job.result()
    assert (facts["mode"], facts["num_steps"]) == ("full", 6) and read_recipe(file)["negative_prompt"] == "fog"
    assert steps and steps <= {(step, 6) for step in range(1, 7)}


def test_an_export_is_what_was_asked_for(client, made):
    clip_id = made[1]["clip_id"]
    file, facts = client.predict(clip_id, format="mp4", scale=0.5, trim_in=1, trim_out=4, loops=2, api_name="/export")
    assert frames_of(file) == 8 and facts["bytes"] == Path(file).stat().st_size and facts["clip_id"] == clip_id
    picture, _ = client.predict(clip_id, format="png", frame=2, api_name="/export")
    assert read_recipe(Path(picture).read_bytes(), "x")["seed"] == 3
    bare, _ = client.predict(clip_id, format="gif", scale=0.5, strip_recipe=True, api_name="/export")
    assert Path(bare).read_bytes()[:6] == b"GIF89a" and b"wug" not in Path(bare).read_bytes()
    pair, _ = client.predict(clip_id, beside=clip_id, api_name="/export")
    with av.open(str(pair)) as video:
        assert video.streams.video[0].width >= 2 * made[1]["width"]


@pytest.mark.parametrize("name, arguments, line", [
    ("preview", {"prompt": ""}, "prompt: expected a few words, got none"),
    ("preview", {"prompt": 7}, "prompt: expected text, got int"),
    ("preview", {"prompt": "x" * 3000}, "prompt: expected at most 2,000 characters, got 3,000"),
    ("preview", {"prompt": "a robot", "seed": "seven"}, "seed: expected a whole number from 0 to"),
    ("preview", {"prompt": "a robot", "seed": 2**40}, "seed: expected a whole number from 0 to 4,294,967,295"),
    ("preview", {"prompt": "a robot", "num_steps": 40}, "num_steps: expected a whole number from 1 to"),
    ("render_full", {"prompt": "a robot", "negative_prompt": ["fog"]}, "negative_prompt: expected text, got list"),
    ("export", {"clip_id": "../../token"}, "clip_id: expected one that"),
    ("export", {"clip_id": None}, "clip_id: expected one that"),
    ("export", {"clip_id": "CLIP", "format": "exe"}, "format: expected one of mp4"),
    ("export", {"clip_id": "CLIP", "scale": "huge"}, "scale: expected 0.25 to 4, got 'huge'"),
    ("export", {"clip_id": "CLIP", "beside": "nothing"}, "clip_id: expected one that"),
    ("history", {"limit": 0}, "limit: expected a whole number from 1 to 200, got 0"),
    ("history", {"query": {"a": 1}}, "query: expected words"),
    ("details", {"clip_id": "nope"}, "clip_id: expected one that"),
])
def test_what_cannot_be_done_is_one_line_by_either_way(running, client, made, name, arguments, line):
    arguments = {key: made[1]["clip_id"] if value == "CLIP" else value for key, value in arguments.items()}
    with pytest.raises(Exception) as told:
        client.predict(**arguments, api_name=f"/{name}")
    assert type(told.value).__name__ == "AppError" and str(told.value).startswith(line) and "\n" not in str(told.value)
    result = tool_call(running, name, arguments)
    assert result["isError"] is True and result["content"] == [{"type": "text", "text": str(told.value)}]


def test_without_the_token_nothing_is_called(running):
    with pytest.raises(ValueError, match="credentials were not provided"):
        Client(running.url, verbose=False, analytics_enabled=False)
    with httpx.Client(base_url=running.url) as raw:
        for path, body in (("/gradio_api/call/preview", {"data": ["a robot", 1, *[None] * 4]}), ("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"})):
            for headers in ({}, {"Authorization": "Bearer guess"}):
                reply = raw.post(path, json=body, headers=headers)
                assert reply.status_code == 401 and "Authorization: Bearer TOKEN" in reply.text and reply.text.count("\n") == 0
            assert raw.post(path, json=body, headers=running.headers).status_code == 200
            evil = {**running.headers, "Origin": "http://evil.example"}
            assert raw.post(path, json=body, headers=evil).status_code == 403       # not even a page that knows the token


def test_files_beyond_what_was_made_are_not_served(running, made):
    with httpx.Client(base_url=running.url, headers=running.headers) as raw:
        ours = next((running.folder / "gradio" / "made").glob("*/*.mp4"))
        assert raw.get(f"/gradio_api/file={ours}").status_code == 200
        kept = next((running.folder / "clips").glob("*.mp4"))
        for path in (running.folder / "token", running.folder / "history.sqlite3", kept, "/etc/hostname", ours / ".." / ".." / ".." / ".." / "token"):
            assert Path(path).exists() or ".." in str(path)
            assert raw.get(f"/gradio_api/file={path}").status_code == 403, path


# -- MCP ---------------------------------------------------------------------------------------------------------------

def rpc(running, body, **headers) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{running.url}mcp", content=content, timeout=120, headers={
        **running.headers, "Content-Type": "application/json", "Accept": "application/json, text/event-stream", **headers})


def tool_call(running, name: str, arguments, **meta) -> dict:
    reply = rpc(running, {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": name, "arguments": arguments, **meta}})
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: ")]
    assert events[-1]["id"] == 7
    return events[-1]["result"]


def test_the_official_client_shakes_hands_lists_and_calls(running, made):
    import mcp
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        async with streamablehttp_client(f"{running.url}mcp", headers=running.headers) as (read, write, _), mcp.ClientSession(read, write) as session:
            hello = await session.initialize()
            assert hello.serverInfo.name == "rushes" and hello.protocolVersion == VERSIONS[0]
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            assert tuple(tools) == END_POINTS
            schema = tools["render_full"].inputSchema
            assert schema["required"] == ["prompt"] and schema["properties"]["seed"]["type"] == "integer" and "progress" not in schema["properties"]
            assert all(tool.description and all(p["description"] for p in tool.inputSchema["properties"].values()) for tool in tools.values())
            heard = []

            async def hear(done, total, words):
                heard.append((done, total))
            result = await session.call_tool("preview", {"prompt": "a snowman spinning in the snow", "seed": 5, "num_steps": 2}, progress_callback=hear)
            assert heard == [(1, 2), (2, 2)] and not result.isError
            facts, link, picture = result.content
            assert json.loads(facts.text)["num_steps"] == 2
            assert frames_of(str(link.uri).removeprefix("file://")) == json.loads(facts.text)["num_frames"]
            assert picture.mimeType == "image/jpeg" and picture.data.startswith("/9j/")
            listed = json.loads((await session.call_tool("history", {"query": "snowman"})).content[0].text)
            assert [clip["clip_id"] for clip in listed] == [json.loads(facts.text)["clip_id"]]
            with pytest.raises(mcp.McpError, match="name: expected one of preview"):
                await session.call_tool("picture", {"clip_id": "x"})
    asyncio.run(talk())


@pytest.mark.parametrize("body, status, code", [
    (b"", 400, -32700), (b"{", 400, -32700), (b"[" * 100_000, 400, -32700), (b"\xff\xfe", 400, -32700), (b"[]", 400, -32600), (b"7", 400, -32600),
    ({"id": 1, "method": "ping"}, 400, -32600), ({"jsonrpc": "2.0", "id": 1, "method": "resources/list"}, 200, -32601),
    ({"jsonrpc": "2.0", "id": 1, "method": ["ping"]}, 200, -32601), ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": []}, 200, -32602),
    ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "_make"}}, 200, -32602),
    ({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": {}}}, 200, -32602),
])
def test_what_is_no_message_of_the_protocol_is_refused_in_its_own_words(running, body, status, code):
    reply = rpc(running, body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)


def test_the_small_print_of_the_protocol(running):
    for asked, answered in [(version, version) for version in VERSIONS] + [("1999-01-01", VERSIONS[0]), (None, VERSIONS[0])]:
        reply = rpc(running, {"jsonrpc": "2.0", "id": "a", "method": "initialize", "params": {"protocolVersion": asked}}).json()
        assert reply["id"] == "a" and reply["result"]["protocolVersion"] == answered
    assert rpc(running, {"jsonrpc": "2.0", "id": 0, "method": "ping"}).json() == {"jsonrpc": "2.0", "id": 0, "result": {}}
    for note in ({"jsonrpc": "2.0", "method": "notifications/initialized"}, {"jsonrpc": "2.0", "id": 3, "result": {}}):
        reply = rpc(running, note)
        assert (reply.status_code, reply.content) == (202, b"")
    for method in ("GET", "DELETE"):
        assert httpx.request(method, f"{running.url}mcp", headers=running.headers).status_code == 405
    for arguments, line in (({"prompt": "a robot", "sede": 1}, "arguments: expected prompt, seed, num_steps, size, num_frames, image, got 'sede'; leave it out"),
                            ({}, "prompt: expected it among the arguments, found none; name it"), ([1], "arguments: expected an object with prompt")):
        assert tool_call(running, "preview", arguments)["content"][0]["text"].startswith(line)
    assert tool_call(running, "history", {"limit": 1}, _meta="none")["isError"] is False


def test_a_function_that_breaks_is_told_without_its_insides(caplog):
    from ui.mcp import _call

    def broken(word: str) -> dict:
        """Break."""
        raise ZeroDivisionError("secret")

    async def talk():
        return [json.loads(event.partition("data: ")[2]) async for event in _call(Tool(broken, 1), 1, {"arguments": {"word": "x"}}, lambda _: None)]
    [event] = asyncio.run(talk())
    assert event["result"] == {"isError": True, "content": [{"type": "text", "text": "broken stumbled on this one (ZeroDivisionError); the terminal has the details."}]}
    assert "secret" in caplog.text


# -- at the desk -------------------------------------------------------------------------------------------------------

def at_desk(scenario, engine: FakeEngine, folder: Path) -> None:
    async def whole():
        async with open_desk(engine, archive=Archive(Store(folder))) as desk:
            api = Api(desk, Models(engine.preset), Pictures(folder / "pictures"), folder / "made")
            await scenario(desk, api)
    asyncio.run(whole())


async def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


def test_people_come_first_and_code_waits_for_all_of_it(tmp_path):
    """A render for code is under way; a preview for code, a render of the page and its preview come in, in that order, and are done in the reverse."""
    engine = FakeEngine(step_s=0.1)

    async def scenario(desk, api):
        page = Page(desk)
        slow = asyncio.create_task(asyncio.to_thread(api.render_full, "code renders", num_steps=10))
        await until(lambda: "code renders" in prompts(engine.requests))
        quick = asyncio.create_task(asyncio.to_thread(api.preview, "code previews"))
        await until(lambda: "code previews" in prompts(engine.requests))        # it gave way at once: to the preview for code
        page.render(1, "the page renders", num_steps=4)
        await until(lambda: "the page renders" in prompts(engine.requests))
        page.edit(2, "the page previews")
        await page.until(type="clip", generation=2, kind=TURBO)
        await asyncio.gather(slow, quick)
        assert prompts(engine.finished)[1:] == ["the page previews", "the page renders", "code previews", "code renders"]
        await until(lambda: len(desk.archive.store.list()) == 4)
        page.close()
    at_desk(scenario, engine, tmp_path)


def test_a_flood_of_previews_for_code_holds_nobody_up(tmp_path):
    """The page's preview runs at the next block, its full render too, whatever waits for code."""
    engine = FakeEngine(step_s=0.05)

    async def scenario(desk, api):
        page = Page(desk)
        flood = [asyncio.create_task(asyncio.to_thread(api.preview, f"flood {n}")) for n in range(6)]
        await until(lambda: len(engine.requests) > 1)
        page.edit(1, "a robot")
        page.render(2, "a robot", num_steps=4)
        await page.until(type="clip", generation=1, kind=TURBO)
        await page.until(type="clip", generation=2, kind=FULL)
        assert prompts(engine.finished)[1:3] == ["a robot", "a robot"]
        await asyncio.gather(*flood)
        page.close()
    at_desk(scenario, engine, tmp_path)


def test_cancel_stops_what_code_asked_for_and_nothing_else(tmp_path):
    engine = FakeEngine(step_s=0.05)

    async def scenario(desk, api):
        page = Page(desk)
        calls = [asyncio.create_task(asyncio.to_thread(api.render_full, f"code {n}", num_steps=50)) for n in range(2)]
        await until(lambda: len(engine.requests) > 1)
        page.render(1, "a robot", num_steps=8)
        await until(lambda: len(engine.requests) > 2 and len(api._open) == 2)
        assert api.cancel() == {"cancelled": 2}
        for told in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(told, TurboError) and str(told) == "This was cancelled."
        await page.until(type="clip", generation=1, kind=FULL)
        assert prompts(engine.finished)[1:] == ["a robot"] and api.cancel() == {"cancelled": 0}
        page.close()
    at_desk(scenario, engine, tmp_path)


@pytest.mark.clock
def test_the_way_out_waits_for_no_call(tmp_path):
    """Story: the server waited at its end for a thread that waited for the engine, which is stopped only after the server."""
    engine = FakeEngine(step_s=0.1)

    async def scenario(desk, api):
        calls = [asyncio.create_task(asyncio.to_thread(api.render_full, f"code {n}", num_steps=50)) for n in range(3)]
        await until(lambda: len(api._open) == 3)
        start = time.monotonic()
        api.close()
        told = await asyncio.gather(*calls, asyncio.to_thread(api.preview, "too late"), return_exceptions=True)
        assert time.monotonic() - start < 2 and [type(error) for error in told] == [TurboError] * 4
        assert str(told[3]) == "The app is closing; ask again when it runs."
    at_desk(scenario, engine, tmp_path)


@pytest.mark.clock
def test_ctrl_c_in_the_middle_of_calls_of_both_kinds_ends_clean(tmp_path):
    app = App("-m", "tests.browser.fake_app", "0", str(tmp_path))
    while len(app.lines) < 2:
        time.sleep(0.01)
    running = Running(app, tmp_path)
    client = running.client()
    job = client.submit("a robot", num_steps=100, api_name="/render_full")
    ended = []

    def call():
        with contextlib.suppress(httpx.HTTPError):
            ended.append(tool_call(running, "render_full", {"prompt": "a cat", "num_steps": 100})["content"][0]["text"])
    caller = threading.Thread(target=call)
    while not job.status().progress_data:
        time.sleep(0.02)
    caller.start()
    time.sleep(0.5)
    start = time.monotonic()
    assert app.stop() == 0 and time.monotonic() - start < 6         # the two would have taken 8 s more
    assert len(app.lines) == 2, "".join(app.lines)
    caller.join(10)
    with pytest.raises(Exception, match="This was cancelled."):
        job.result(timeout=10)
    with Store(tmp_path) as store:
        assert ended == ["This was cancelled."] and store.list() == []
    client.close()


def test_calls_leave_nothing_behind_at_the_desk(tmp_path):
    engine = FakeEngine()

    async def scenario(desk, api):
        page = Page(desk)
        page.render(1, "a robot", num_steps=2)
        await page.until(type="clip", generation=1, kind=FULL)
        for n in range(desk.pages_kept + 1):            # a page's last render is remembered for so many pages
            await asyncio.to_thread(api.preview, f"clip {n % 3}")
        assert list(desk._rendered) == [page.session.page] and desk._sessions == [page.session] and not desk._renders and not api._open
        page.close()
    at_desk(scenario, engine, tmp_path)


def test_a_clip_out_of_memory_comes_back_from_the_history(tmp_path):
    engine = FakeEngine()

    async def scenario(desk, api):
        _, facts = await asyncio.to_thread(api.preview, "a robot spinning", 3)
        await asyncio.to_thread(api.history)                        # which waits until it is written
        kept = desk.clips.get(facts["clip_id"]).result.frames
        desk.clips.__init__()
        assert (await asyncio.to_thread(api.details, facts["clip_id"]))["recipe"]["seed"] == 3
        file, told = await asyncio.to_thread(api.export, facts["clip_id"], "png-zip")
        assert told["clip_id"] == facts["clip_id"] and Path(file.path).stat().st_size == told["bytes"]
        back = next(iter(desk.clips._by_id.values())).result.frames
        assert len(engine.requests) == 2 and np.abs(back.astype(int) - kept).max() <= 2          # decoded, not made anew
        assert (await asyncio.to_thread(api.preview, "a robot spinning", 3))[1]["clip_id"] == facts["clip_id"]
    at_desk(scenario, engine, tmp_path)


def test_size_length_and_first_picture_go_with_a_call(tmp_path):
    engine, photo = FakeEngine("wan2.2-i2v-a14b-720p"), a_picture(80, 60)
    desk = Desk(engine.load, None, archive=Archive(Store(tmp_path)))
    desk.start()
    api = Api(desk, Models(engine.preset), Pictures(tmp_path / "pictures"), tmp_path / "made")
    asked = {"size": "720x1280", "num_frames": 5, "image": "data:image/png;base64," + base64.b64encode(photo).decode()}
    try:
        for call, mode in ((api.preview, "turbo"), (api.render_full, "full")):
            _, facts = call("the boat leaves", num_steps=2, **asked)
            assert (facts["mode"], facts["width"], facts["height"], facts["num_frames"]) == (mode, 720, 1280, 5)
            request = engine.requests[-1]
            assert (request.width, request.height, request.num_frames, request.image) == (720, 1280, 5, photo)
        for wrong, line in (({"image": "!"}, "in base64"), ({"image": base64.b64encode(b"<svg/>").decode()}, "another kind of file"),
                            ({"image": None}, "expected a picture to start from"), ({"size": "720"}, "expected WIDTHxHEIGHT"),
                            ({"size": "64x64"}, "expected one of"), ({"num_frames": 6}, "4k")):
            with pytest.raises(TurboError, match=line):
                api.preview("the boat leaves", **{**asked, **wrong})
    finally:
        desk.stop()


def test_an_engine_that_cannot_load_is_told_to_those_who_wait(tmp_path):
    started = threading.Event()

    def make_engine():
        started.wait(10)
        raise WeightsError("student.safetensors: expected 14 MB, found none; fetch it again")
    desk = Desk(make_engine, OPENING, archive=Archive(Store(tmp_path)))
    desk.start()
    api = Api(desk, Models(FakeEngine().preset), Pictures(tmp_path / "pictures"), tmp_path / "made")
    threading.Timer(0.2, started.set).start()
    with pytest.raises(TurboError, match="The model could not be loaded: student.safetensors"):
        api.preview("a robot")
    with pytest.raises(TurboError, match="could not be loaded"):
        api.preview("a robot")
    desk.stop()


def test_only_the_newest_files_are_kept_and_a_full_disk_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "made" / "old").mkdir(parents=True)
    shelf = Shelf(tmp_path / "made")
    assert not (tmp_path / "made" / "old").exists()
    files = [Path(shelf.put("a.mp4", b"x" * n, "video/mp4").path) for n in range(FILES_KEPT + 3)]
    assert [file.exists() for file in files] == [False] * 3 + [True] * FILES_KEPT

    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(api_module.Path, "write_bytes", full)
    with pytest.raises(TurboError, match=r"b.mp4: cannot be written to .* \(No space left on device\); make room there"):
        shelf.put("b.mp4", b"x", "video/mp4")
    assert len(list((tmp_path / "made").iterdir())) == FILES_KEPT


def test_jobs_that_give_way_three_deep_come_out_as_if_alone(engine):
    """A render for code gives way to a page's, and that to a preview: the real network, all three bit for bit."""
    requests = [Request("a cat", 1, "full", num_steps=3), Request("a dog", 2, "full", num_steps=3), Request("a robot", 3)]
    alone = [[*engine.generate(request)][-1] for request in requests]
    nested = []

    def make(depth: int) -> None:
        waits = iter([False, False, True])

        def give_way():
            if depth < 2 and next(waits, False):
                make(depth + 1)
        nested.append((depth, [*engine.generate(requests[depth], give_way=give_way)][-1]))
    make(0)
    assert [depth for depth, _ in nested] == [2, 1, 0]
    for depth, result in nested:
        assert np.array_equal(result.latent, alone[depth].latent) and np.array_equal(result.frames, alone[depth].frames)
