"""Who may talk to the desk. Every refusal is also tried on the same app without the guard, where it must get through: a guard test
that passes on an open door is blind."""

import asyncio
import gc
import warnings

import pytest

from turbo_engine.fake import FakeEngine
from ui.guard import Guard

PORT = 7860
SELF = f"127.0.0.1:{PORT}"
LIMIT = 1 << 20
# Gradio leaves event loops unclosed when it is mounted; they are collected before the next module's tests.
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The real app, our routes and Gradio's, without the guard."""
    from fastapi import FastAPI

    from ui.handlers import OPENING, add_routes
    from ui.live import Desk
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # Gradio's imports, not ours
        from ui.page import mount_page
        app = FastAPI(openapi_url=None)
        engine = FakeEngine()
        add_routes(app, Desk(engine.load, OPENING), engine.preset, tmp_path_factory.mktemp("data"))

        @app.post("/echo")
        async def echo(body: dict):
            return body

        app = mount_page(app, PORT)
        gc.collect()
    yield app
    gc.collect()


def ask(app, path="/", method="GET", headers=(), body=b"", chunks=1, kind="http"):
    """One request over raw ASGI, so that headers can be doubled or missing. Returns (status, headers, body); a WebSocket that is
    accepted has status 101, a refused one 403."""
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    scope = {
        "type": kind, "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers,
        "scheme": "http" if kind == "http" else "ws", "http_version": "1.1", "asgi": {"version": "3.0"}, "root_path": "",
        "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", PORT), "subprotocols": [], "state": {},
    }
    if kind == "websocket":
        del scope["method"]

    async def talk():
        size = -(-len(body) // chunks)
        parts = [body[i * size:(i + 1) * size] for i in range(chunks)]
        inbox = asyncio.Queue()
        if kind == "websocket":
            inbox.put_nowait({"type": "websocket.connect"})
        for i, part in enumerate(parts if kind == "http" else []):
            inbox.put_nowait({"type": "http.request", "body": part, "more_body": i < chunks - 1})
        sent, started = [], asyncio.Event()

        async def send(message):
            sent.append(message)
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.close"):
                started.set()

        async def receive():
            if inbox.empty() and kind == "http":
                await asyncio.sleep(3600)
            return await inbox.get()

        task = asyncio.create_task(app(scope, receive, send))
        await asyncio.wait({task, asyncio.create_task(started.wait())}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        if kind == "websocket":
            inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
        await asyncio.wait({task}, timeout=5)
        if task.done() and task.exception() and not sent:
            raise task.exception()
        task.cancel()
        if kind == "websocket":
            return (101 if sent[0]["type"] == "websocket.accept" else 403), [], b""
        start = next(message for message in sent if message["type"] == "http.response.start")
        whole = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
        return start["status"], [(n.decode(), v.decode()) for n, v in start["headers"]], whole

    return asyncio.run(talk())


ROUTES = [
    ("/", "GET", "http"), ("/config", "GET", "http"), ("/gradio_api/info", "GET", "http"), ("/gradio_api/queue/join", "POST", "http"),
    ("/gradio_api/upload", "POST", "http"), ("/rt/viewer/desk.js", "GET", "http"), ("/rt/clip/x.mp4", "GET", "http"),
    ("/rt/compare/x/y", "GET", "http"), ("/manifest.json", "GET", "http"), ("/rt/formats", "GET", "http"), ("/rt/export", "POST", "http"),
    ("/rt/export/estimate", "POST", "http"), ("/rt/export/x", "GET", "http"), ("/rt/export/x", "DELETE", "http"),
    ("/rt/export/x/file", "GET", "http"), ("/rt/recipe", "POST", "http"),
    ("/no-such-place", "GET", "http"), ("/", "OPTIONS", "http"), ("/rt/ws", "GET", "websocket"),
]
HOSTS = [
    "evil.example", f"evil.example:{PORT}", f"127.0.0.1.nip.example:{PORT}", "127.0.0.1", "localhost", "127.0.0.1:80", "127.0.0.1:7861",
    f"127.0.0.2:{PORT}", f"127.1:{PORT}", f"2130706433:{PORT}", f"0x7f000001:{PORT}", f"0177.0.0.1:{PORT}", f"0.0.0.0:{PORT}",
    f"localhost.:{PORT}", f"127.0.0.1.:{PORT}", f"LOCALHOST.evil.example:{PORT}", f"localhost.localdomain:{PORT}", f"me.local:{PORT}",
    f"me.internal:{PORT}", f"[::]:{PORT}", f"[::ffff:127.0.0.1]:{PORT}", f"[0:0:0:0:0:0:0:1]:{PORT}", f"::1:{PORT}", "[::1]",
    f"user@127.0.0.1:{PORT}", f"127.0.0.1:{PORT}@evil.example", f"127.0.0.1:{PORT},evil.example", f"evil.example, 127.0.0.1:{PORT}",
    f"127.0.0.1:{PORT} ", f" 127.0.0.1:{PORT}", f"127.0.0.1:{PORT}/", f"127.0.0.1:{PORT}#", f"127.0.0.1:{PORT}\\.evil.example",
    f"127.0.0.1:0{PORT}", f"127.0.0.1:{PORT}0", "127.0.0.1:", f"192.168.1.2:{PORT}", f"10.0.0.1:{PORT}", f"169.254.169.254:{PORT}", "",
    f"127.0.0.1%00.evil.example:{PORT}", f"\u00b9\u00b27.0.0.1:{PORT}",
]
ORIGINS = [
    "null", "http://evil.example", f"http://evil.example:{PORT}", f"https://127.0.0.1:{PORT}", "http://127.0.0.1", "http://127.0.0.1:7861",
    f"http://localhost:{PORT}", f"http://[::1]:{PORT}", f"http://127.0.0.2:{PORT}", f"http://127.0.0.1:{PORT}.evil.example",
    f"http://127.0.0.1:{PORT}@evil.example", f"http://127.0.0.1:{PORT}/", f"HTTP://127.0.0.1:{PORT}", f"ws://127.0.0.1:{PORT}",
    f"127.0.0.1:{PORT}", f"//127.0.0.1:{PORT}", "file://", "chrome-extension://abcdef", "", f"http://127.0.0.1:{PORT}, http://evil.example",
    f"http://evil127.0.0.1:{PORT}",
]
JSON = [("content-type", "application/json")]


def test_the_person_at_this_machine_gets_in(bare):
    app = Guard(bare, PORT)
    for host in (SELF, f"localhost:{PORT}", f"[::1]:{PORT}"):
        assert ask(app, headers=[("host", host)])[0] == 200
        same = [("host", host), ("origin", f"http://{host}"), ("sec-fetch-site", "same-origin")]
        assert ask(app, "/rt/ws", headers=same, kind="websocket")[0] == 101
        assert ask(app, "/echo", "POST", [*same, *JSON], b'{"a": 1}')[::2] == (200, b'{"a":1}')
        assert ask(app, "/rt/viewer/desk.js", headers=same)[0] == 200
        assert ask(app, headers=[("host", host), ("sec-fetch-site", "none")])[0] == 200
    assert ask(Guard(bare, 80), headers=[("host", "localhost")])[0] == 200


@pytest.mark.parametrize("path, method, kind", ROUTES)
def test_no_other_host_is_served(bare, path, method, kind):
    app = Guard(bare, PORT)
    for host in HOSTS:
        assert ask(app, path, method, [("host", host)], kind=kind)[0] == 403, host
    assert ask(app, path, method, [], kind=kind)[0] == 403
    assert ask(app, path, method, [("host", SELF), ("host", SELF)], kind=kind)[0] == 403
    assert ask(app, path, method, [("host", SELF), ("host", "evil.example")], kind=kind)[0] == 403


@pytest.mark.parametrize("path, method, kind", ROUTES)
def test_no_other_origin_is_served(bare, path, method, kind):
    app = Guard(bare, PORT)
    for origin in ORIGINS:
        assert ask(app, path, method, [("host", SELF), ("origin", origin)], kind=kind)[0] == 403, origin
    assert ask(app, path, method, [("host", SELF), ("origin", f"http://{SELF}"), ("origin", "null")], kind=kind)[0] == 403


def test_another_site_may_only_link_to_the_start_page(bare):
    app = Guard(bare, PORT)
    link = [("host", SELF), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]
    for site in ("cross-site", "same-site"):       # same-site: another port of this machine is a stranger too
        assert ask(app, headers=[*link, ("sec-fetch-site", site)])[0] == 200
        for path, method, kind in ROUTES:
            if (path, method) != ("/", "GET"):
                assert ask(app, path, method, [*link, ("sec-fetch-site", site)], kind=kind)[0] == 403
        for mode, dest in (("no-cors", "image"), ("navigate", "iframe"), ("cors", "empty"), ("no-cors", "script"), ("navigate", "embed")):
            headers = [("host", SELF), ("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]
            assert ask(app, headers=headers)[0] == 403
    assert ask(app, headers=[*link, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")])[0] == 403


def test_without_the_guard_all_of_that_gets_through(bare):
    """The negative control."""
    assert ask(bare, headers=[("host", f"evil.example:{PORT}")])[0] == 200
    assert ask(bare, "/rt/ws", headers=[("host", SELF), ("origin", "http://evil.example")], kind="websocket")[0] == 101
    status, headers, _ = ask(bare, headers=[("host", f"evil.example:{PORT}"), ("origin", "http://evil.example")])
    assert status == 200 and "content-security-policy" not in dict(headers)
    assert dict(headers)["access-control-allow-origin"] == "http://evil.example"
    assert ask(bare, "/echo", "POST", [("host", SELF), *JSON], b'{"a": "%s"}' % (b"x" * 2 * LIMIT))[0] == 200


def test_every_reply_carries_the_security_headers_and_none_allows_another_origin(bare):
    app = Guard(bare, PORT)
    replies = [ask(app, path, method, [("host", SELF)]) for path, method, kind in ROUTES if kind == "http"]
    replies += [ask(app, headers=[("host", "evil.example")]), ask(app, "/echo", "POST", [("host", SELF), ("content-length", "9" * 9)])]
    assert {status for status, _, _ in replies} >= {200, 403, 404, 413}
    for _, headers, _ in replies:
        names = [name.lower() for name, _ in headers if name.lower() != "set-cookie"]
        assert len(names) == len(set(names))
        found = dict(headers)
        assert found["x-content-type-options"] == "nosniff" and found["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in found["content-security-policy"] and "default-src 'self'" in found["content-security-policy"]
        assert not [name for name in names if name.startswith("access-control-")]


def test_refusals_tell_nothing(bare):
    status, _, body = ask(Guard(bare, PORT), headers=[("host", "evil.example")])
    assert (status, body) == (403, b"Forbidden.")


@pytest.mark.parametrize("headers, status", [
    ([("content-length", str(LIMIT + 1))], 413), ([("content-length", "-1")], 400), ([("content-length", "1e3")], 400),
    ([("content-length", "5"), ("content-length", "6")], 400), ([("content-length", "\u00b2")], 400),
])
def test_bodies_that_announce_themselves_badly(bare, headers, status):
    assert ask(Guard(bare, PORT), "/echo", "POST", [("host", SELF), *JSON, *headers], b"{}")[0] == status


@pytest.mark.parametrize("path", ["/echo", "/gradio_api/upload"])
def test_a_body_that_grows_past_the_limit_is_cut_off(bare, path):
    """A chunked body names no length: it is counted as it comes."""
    body = b'{"a": "' + b"x" * (2 * LIMIT) + b'"}'
    content_type = JSON if path == "/echo" else [("content-type", "multipart/form-data; boundary=b")]
    status, headers, _ = ask(Guard(bare, PORT), path, "POST", [("host", SELF), *content_type], body, chunks=64)
    assert status in (400, 413) and "content-security-policy" in dict(headers)
    small = ask(Guard(bare, PORT), "/echo", "POST", [("host", SELF), *JSON], b'{"a": "b"}', chunks=3)
    assert small[0] == 200
