"""Who may talk to the desk. Every refusal is also tried on the same app without the guard, where it must get through: a guard test
that passes on an open door is blind."""

import asyncio
import gc
import re
import warnings

import pytest
from starlette.routing import Mount, WebSocketRoute

from turbo_engine.fake import FakeEngine
from ui.guard import Guard, new_token

PORT = 7860
SELF = f"127.0.0.1:{PORT}"
TOKEN = "3q2-7w_the-token-of-this-launch"
COOKIE, BEARER = ("cookie", f"rushes-{PORT}={TOKEN}"), ("authorization", f"Bearer {TOKEN}")
HOST = ("host", SELF)
LIMIT = 1 << 20
# Gradio leaves event loops unclosed when it is mounted; they are collected before the next module's tests.
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The real app, our routes and Gradio's, without the guard."""
    from fastapi import FastAPI

    from turbo_engine.store import Store
    from ui.archive import Archive
    from ui.handlers import OPENING, add_routes
    from ui.live import Desk
    from ui.mcp import add_mcp_route
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")         # Gradio's imports, not ours
        from ui.api import Api
        from ui.page import mount_page
        app, engine, folder = FastAPI(openapi_url=None), FakeEngine(), tmp_path_factory.mktemp("data")
        desk = Desk(engine.load, OPENING, archive=Archive(Store(folder)))
        add_routes(app, desk, engine.preset, folder)
        add_mcp_route(app, [], lambda clip_id: None)

        @app.post("/echo")
        async def echo(body: dict):
            return body

        app = mount_page(app, PORT, Api(desk, engine.preset, folder / "made"))
        gc.collect()
    yield app
    desk.archive.close()
    gc.collect()


def ask(app, path="/", method="GET", headers=(), body=b"", chunks=1, kind="http"):
    """One request over raw ASGI, so that headers can be doubled or missing. Returns (status, headers, body); a WebSocket that is
    accepted has status 101."""
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
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
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
            if sent[0]["type"] == "websocket.accept":
                return 101, [], b""
        start = next(message for message in sent if message["type"].endswith("http.response.start"))
        whole = b"".join(message.get("body", b"") for message in sent if message["type"].endswith("http.response.body"))
        return start["status"], [(n.decode(), v.decode()) for n, v in start["headers"]], whole

    return asyncio.run(talk())


ROUTES = [
    ("/", "GET", "http"), ("/config", "GET", "http"), ("/gradio_api/info", "GET", "http"), ("/gradio_api/queue/join", "POST", "http"),
    ("/gradio_api/upload", "POST", "http"), ("/rt/viewer/desk.js", "GET", "http"), ("/rt/clip/x.mp4", "GET", "http"),
    ("/rt/compare/x/y", "GET", "http"), ("/manifest.json", "GET", "http"), ("/rt/formats", "GET", "http"), ("/rt/export", "POST", "http"),
    ("/rt/export/estimate", "POST", "http"), ("/rt/export/x", "GET", "http"), ("/rt/export/x", "DELETE", "http"),
    ("/rt/export/x/file", "GET", "http"), ("/rt/recipe", "POST", "http"),
    ("/rt/history", "GET", "http"), ("/rt/history/x", "DELETE", "http"), ("/mcp", "POST", "http"), ("/gradio_api/call/preview", "POST", "http"),
    ("/gradio_api/file=/etc/hostname", "GET", "http"), ("/no-such-place", "GET", "http"), ("/", "OPTIONS", "http"), ("/rt/ws", "GET", "websocket"),
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
    app = Guard(bare, PORT, TOKEN)
    for host in (SELF, f"localhost:{PORT}", f"[::1]:{PORT}"):
        assert ask(app, headers=[("host", host)])[0] == 200
        same = [("host", host), ("origin", f"http://{host}"), ("sec-fetch-site", "same-origin"), COOKIE]
        assert ask(app, "/rt/ws", headers=same, kind="websocket")[0] == 101
        assert ask(app, "/echo", "POST", [*same, *JSON], b'{"a": 1}')[::2] == (200, b'{"a":1}')
        assert ask(app, "/rt/viewer/desk.js", headers=same)[0] == 200
        assert ask(app, headers=[("host", host), ("sec-fetch-site", "none")])[0] == 200
    assert ask(Guard(bare, 80, TOKEN), headers=[("host", "localhost")])[0] == 200


@pytest.mark.parametrize("path, method, kind", ROUTES)
def test_no_other_host_is_served(bare, path, method, kind):
    app = Guard(bare, PORT, TOKEN)
    for host in HOSTS:
        assert ask(app, path, method, [("host", host), COOKIE], kind=kind)[0] == 403, host
    assert ask(app, path, method, [COOKIE], kind=kind)[0] == 403
    assert ask(app, path, method, [HOST, HOST, COOKIE], kind=kind)[0] == 403
    assert ask(app, path, method, [HOST, ("host", "evil.example"), COOKIE], kind=kind)[0] == 403


@pytest.mark.parametrize("path, method, kind", ROUTES)
def test_no_other_origin_is_served(bare, path, method, kind):
    app = Guard(bare, PORT, TOKEN)
    for origin in ORIGINS:
        assert ask(app, path, method, [HOST, COOKIE, ("origin", origin)], kind=kind)[0] == 403, origin
    assert ask(app, path, method, [HOST, COOKIE, ("origin", f"http://{SELF}"), ("origin", "null")], kind=kind)[0] == 403


def test_another_site_may_only_link_to_the_start_page(bare):
    app = Guard(bare, PORT, TOKEN)
    link = [HOST, COOKIE, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]
    for site in ("cross-site", "same-site"):       # same-site: another port of this machine is a stranger too
        assert ask(app, headers=[*link, ("sec-fetch-site", site)])[0] == 200
        for path, method, kind in ROUTES:
            if (path, method) != ("/", "GET"):
                assert ask(app, path, method, [*link, ("sec-fetch-site", site)], kind=kind)[0] == 403
        for mode, dest in (("no-cors", "image"), ("navigate", "iframe"), ("cors", "empty"), ("no-cors", "script"), ("navigate", "embed")):
            headers = [HOST, COOKIE, ("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]
            assert ask(app, headers=headers)[0] == 403
    assert ask(app, headers=[*link, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")])[0] == 403


def table(app) -> list[tuple[str, str, str]]:
    """Every route the app has, Gradio's own included: (path with its blanks filled in, method, kind)."""
    found = []
    for route in app.routes:
        inner = route.app if isinstance(route, Mount) else getattr(route, "original_router", None)     # of an included router
        path = re.sub(r"\{[^}]*\}", "x", getattr(route, "path", ""))
        if inner is not None:
            found += [(path + rest, *others) for rest, *others in (table(inner) if hasattr(inner, "routes") else [("/x", "GET", "http")])]
        elif isinstance(route, WebSocketRoute):
            found.append((path, "GET", "websocket"))
        else:
            found += [(path, method, "http") for method in route.methods]
    return found


OPEN = {("/", "GET", "http"), ("/manifest.json", "GET", "http")}
NO_TOKENS = [
    ("authorization", "Bearer "), ("authorization", f"Bearer {TOKEN}x"), ("authorization", f"Bearer {TOKEN[:-1]}"), ("authorization", f"Bearer {TOKEN.upper()}"),
    ("authorization", f"Basic {TOKEN}"), ("authorization", TOKEN), ("x-token", TOKEN), ("cookie", f"rushes={TOKEN}"), ("cookie", f"rushes-{PORT + 1}={TOKEN}"),
    ("cookie", f"rushes-{PORT}={TOKEN}x"), ("cookie", f"rushes-{PORT}="), ("cookie", TOKEN), ("cookie", f"a=b, rushes-{PORT}={TOKEN}"), ("cookie", "\u00fc=\u00fc"),
]


def test_nothing_but_the_start_page_is_served_without_the_token(bare):
    """From the route table, so that a route added tomorrow is in it."""
    app, routes = Guard(bare, PORT, TOKEN), table(bare) + ROUTES
    assert len(routes) > 100 and {"/mcp", "/rt/ws", "/gradio_api/queue/join", "/gradio_api/upload"} <= {path for path, _, _ in routes}
    for path, method, kind in routes:
        assert (ask(app, path, method, [HOST], kind=kind)[0] == 401) == ((path, method, kind) not in OPEN), (path, method)
    for path, method, kind in ROUTES:
        for header in NO_TOKENS:
            assert (ask(app, path, method, [HOST, header], kind=kind)[0] == 401) == ((path, method, kind) not in OPEN), (path, header)


def test_the_start_page_hands_out_a_cookie_that_opens_the_rest(bare):
    app = Guard(bare, PORT, TOKEN)
    cookies = [value for name, value in ask(app, headers=[HOST])[1] if name == "set-cookie"]
    assert cookies == [f"rushes-{PORT}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"]
    for header in (("cookie", cookies[0].partition(";")[0]), ("cookie", f"a=b; {COOKIE[1]};c=d"), BEARER, ("authorization", f"bearer  {TOKEN} ")):
        assert ask(app, "/rt/formats", headers=[HOST, header])[0] == 200
        assert ask(app, "/rt/ws", headers=[HOST, header], kind="websocket")[0] == 101
    replies = [ask(app, path, method, [HOST, *token], kind=kind) for path, method, kind in ROUTES if path != "/" for token in ((), (COOKIE,))]
    assert not [name for _, headers, _ in replies for name, _ in headers if name == "set-cookie"]


def test_a_refusal_for_want_of_a_token_says_how_to_get_one_and_not_where(bare):
    status, headers, body = ask(Guard(bare, PORT, TOKEN), "/gradio_api/info", headers=[HOST])
    assert status == 401 and ("www-authenticate", "Bearer") in headers
    assert b"Authorization: Bearer TOKEN" in body and body.count(b"\n") == 0 and TOKEN.encode() not in body


def test_a_page_that_outlives_its_server_is_let_in_at_its_second_try(bare):
    """Story: a token is for one launch, and a tab left open over a restart tried its socket for ever with the old cookie."""
    app = Guard(bare, PORT, TOKEN)
    old = [HOST, ("origin", f"http://{SELF}"), ("cookie", f"rushes-{PORT}=of-the-last-launch")]
    status, headers, _ = ask(app, "/rt/ws", headers=old, kind="websocket")
    cookie = dict(headers)["set-cookie"].partition(";")[0]
    assert status == 401 and ask(app, "/rt/ws", headers=[*old[:2], ("cookie", cookie)], kind="websocket")[0] == 101
    for stranger in ([HOST], [HOST, ("origin", "http://evil.example")], [("host", "evil.example"), ("origin", "http://evil.example")]):
        assert "set-cookie" not in dict(ask(app, "/rt/ws", headers=stranger, kind="websocket")[1])


def test_the_token_is_new_each_launch_and_in_a_file_of_the_user_alone(tmp_path):
    first, path = new_token(tmp_path)
    path.chmod(0o666)
    with path.open() as held:                           # somebody has the old file open: the new token is not written into it
        second, path = new_token(tmp_path)
        assert held.read() == first
    assert path.read_text() == second != first and len(second) == 43
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("path", ["/gradio_api/proxy=http://127.0.0.1/", "/gradio_api/file=https://example.com/a.png", "/gradio_api/FILE=HTTP://x"])
def test_no_route_fetches_from_another_server(bare, path):
    assert ask(Guard(bare, PORT, TOKEN), path, headers=[HOST, COOKIE])[0] == 403


def test_without_the_guard_all_of_that_gets_through(bare):
    """The negative control."""
    assert ask(bare, headers=[("host", f"evil.example:{PORT}")])[0] == 200
    for path, method, kind in ROUTES:
        assert ask(bare, path, method, [HOST], kind=kind)[0] not in (401, 403) or path.startswith("/gradio_api/file="), path
    assert ask(bare, "/rt/ws", headers=[("host", SELF), ("origin", "http://evil.example")], kind="websocket")[0] == 101
    status, headers, _ = ask(bare, headers=[("host", f"evil.example:{PORT}"), ("origin", "http://evil.example")])
    assert status == 200 and "content-security-policy" not in dict(headers)
    assert dict(headers)["access-control-allow-origin"] == "http://evil.example"
    assert ask(bare, "/echo", "POST", [("host", SELF), *JSON], b'{"a": "%s"}' % (b"x" * 2 * LIMIT))[0] == 200


def test_every_reply_carries_the_security_headers_and_none_allows_another_origin(bare):
    app = Guard(bare, PORT, TOKEN)
    replies = [ask(app, path, method, [HOST, *token]) for path, method, kind in ROUTES if kind == "http" for token in ((), (COOKIE,))]
    replies += [ask(app, headers=[("host", "evil.example")]), ask(app, "/echo", "POST", [HOST, COOKIE, ("content-length", "9" * 9)])]
    assert {status for status, _, _ in replies} >= {200, 401, 403, 404, 413}
    for _, headers, _ in replies:
        names = [name.lower() for name, _ in headers if name.lower() != "set-cookie"]
        assert len(names) == len(set(names))
        found = dict(headers)
        assert found["x-content-type-options"] == "nosniff" and found["referrer-policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in found["content-security-policy"] and "default-src 'self'" in found["content-security-policy"]
        assert not [name for name in names if name.startswith("access-control-")]


def test_refusals_tell_nothing(bare):
    status, _, body = ask(Guard(bare, PORT, TOKEN), headers=[("host", "evil.example")])
    assert (status, body) == (403, b"Forbidden.")


@pytest.mark.parametrize("headers, status", [
    ([("content-length", str(LIMIT + 1))], 413), ([("content-length", "-1")], 400), ([("content-length", "1e3")], 400),
    ([("content-length", "5"), ("content-length", "6")], 400), ([("content-length", "\u00b2")], 400),
])
def test_bodies_that_announce_themselves_badly(bare, headers, status):
    assert ask(Guard(bare, PORT, TOKEN), "/echo", "POST", [HOST, COOKIE, *JSON, *headers], b"{}")[0] == status


@pytest.mark.parametrize("path", ["/echo", "/gradio_api/upload"])
def test_a_body_that_grows_past_the_limit_is_cut_off(bare, path):
    """A chunked body names no length: it is counted as it comes."""
    body = b'{"a": "' + b"x" * (2 * LIMIT) + b'"}'
    content_type = JSON if path == "/echo" else [("content-type", "multipart/form-data; boundary=b")]
    status, headers, _ = ask(Guard(bare, PORT, TOKEN), path, "POST", [HOST, COOKIE, *content_type], body, chunks=64)
    assert status in (400, 413) and "content-security-policy" in dict(headers)
    small = ask(Guard(bare, PORT, TOKEN), "/echo", "POST", [HOST, COOKIE, *JSON], b'{"a": "b"}', chunks=3)
    assert small[0] == 200
