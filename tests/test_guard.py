"""Who may talk to the desk. Every refusal is tried on every route of the real app (so that one added tomorrow is in it), and on the
same app without the guard, where it must get through: a guard test that passes on an open door is blind."""

import pytest
from served import BEARER, COOKIE, HOST, JSON, PORT, SELF, TOKEN, ask, ask_all, filled, site, table

from ui.guard import LARGER_BODIES, Guard, new_token
from ui.roles import OWNER, may

LIMIT = 1 << 20
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
# Gradio leaves event loops unclosed when it is mounted; they are collected before the next module's tests.
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    with site(tmp_path_factory.mktemp("data")) as made:
        @made.app.post("/rt/history/echo")
        async def echo(body: dict):
            return body
        made.app.router.routes.insert(0, made.app.router.routes.pop())      # before Gradio's, which takes every path
        yield made


@pytest.fixture(scope="module")
def bare(desk):
    return desk.app


@pytest.fixture(scope="module")
def routes(bare):
    """(path, method, kind), blanks filled in. A place that does not exist, too."""
    found = [(filled(path), method, kind) for path, method, kind in table(bare)]
    assert len(found) > 100 and {"/mcp", "/rt/ws", "/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/proxy=x"} <= {path for path, *_ in found}
    return [*found, ("/no-such-place", "GET", "http"), ("/", "OPTIONS", "http")]


def statuses(app, routes, *headers) -> dict:
    """Status by (path, method, kind) of one request to each route."""
    replies = ask_all(app, [{"path": path, "method": method, "kind": kind, "headers": headers} for path, method, kind in routes])
    return dict(zip(routes, (status for status, _, _ in replies)))


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


def test_the_person_at_this_machine_gets_in(bare):
    app = Guard(bare, PORT, TOKEN)
    for host in (SELF, f"localhost:{PORT}", f"[::1]:{PORT}"):
        assert ask(app, headers=[("host", host)])[0] == 200
        same = [("host", host), ("origin", f"http://{host}"), ("sec-fetch-site", "same-origin"), COOKIE]
        assert ask(app, "/rt/ws", headers=same, kind="websocket")[0] == 101
        assert ask(app, "/rt/history/echo", "POST", [*same, JSON], b'{"a": 1}')[::2] == (200, b'{"a":1}')
        assert ask(app, "/rt/viewer/desk.js", headers=same)[0] == 200
        assert ask(app, headers=[("host", host), ("sec-fetch-site", "none")])[0] == 200
    assert ask(Guard(bare, 80, TOKEN), headers=[("host", "localhost")])[0] == 200


def test_no_other_host_is_served_on_any_route(bare, routes):
    """T1. 45 names, none, two and another beside ours, on every route, HTTP and WebSocket."""
    app = Guard(bare, PORT, TOKEN)
    for names in [*((host,) for host in HOSTS), (), (SELF, SELF), (SELF, "evil.example")]:
        assert set(statuses(app, routes, *(("host", name) for name in names), COOKIE).values()) == {403}, names


def test_no_other_origin_is_served_on_any_route_by_any_method(desk, bare, routes):
    """T2. And nothing has changed after it: not the disk, not the database, not what the engine was asked."""
    app, before = Guard(bare, PORT, TOKEN), desk.state()
    paths = {(path, kind) for path, _, kind in routes}
    every = [(path, method, kind) for path, kind in sorted(paths) for method in (METHODS if kind == "http" else ("GET",))]
    for origins in [*((origin,) for origin in ORIGINS), (f"http://{SELF}", "null")]:
        headers = [HOST, COOKIE, *(("origin", origin) for origin in origins), ("access-control-request-method", "POST")]
        replies = ask_all(app, [{"path": path, "method": method, "kind": kind, "headers": headers} for path, method, kind in every])
        assert {status for status, _, _ in replies} == {403}, origins
        assert not [name for _, headers, _ in replies for name, _ in headers if name.startswith("access-control")]
    assert desk.state() == before


def test_another_site_may_only_link_to_the_start_page(bare, routes):
    """T3."""
    app = Guard(bare, PORT, TOKEN)
    link = [HOST, COOKIE, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]
    for other in ("cross-site", "same-site"):       # same-site: another port of this machine is a stranger too
        found = statuses(app, routes, *link, ("sec-fetch-site", other))
        assert found.pop(("/", "GET", "http")) == 200 and set(found.values()) == {403}
        for mode, dest in (("no-cors", "image"), ("navigate", "iframe"), ("cors", "empty"), ("no-cors", "script"), ("navigate", "embed")):
            headers = [HOST, COOKIE, ("sec-fetch-site", other), ("sec-fetch-mode", mode), ("sec-fetch-dest", dest)]
            assert set(statuses(app, routes, *headers).values()) == {403}
    assert ask(app, headers=[*link, ("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")])[0] == 403


def test_what_no_list_names_is_closed_to_the_owner_too(bare, routes):
    """Gradio's upload, proxy, streams, monitoring, login and its helpers for developers: no use here, so no way in."""
    app = Guard(bare, PORT, TOKEN)
    closed = [(path, method, kind) for path, method, kind in routes if not may(OWNER, method if kind == "http" else "WebSocket", path)]
    assert {"/gradio_api/upload", "/gradio_api/proxy=x", "/monitoring", "/gradio_api/stream/x", "/gradio_api/vibe-edit", "/login",
            "/gradio_api/component_server", "/gradio_api/dev/reload", "/openapi.json"} <= {path for path, *_ in closed}
    found = statuses(app, closed, HOST, COOKIE)
    assert set(found.values()) - {200, 404} == set() and {route for route in found if found[route] == 200} <= OPEN


OPEN = {("/", "GET", "http"), ("/manifest.json", "GET", "http"), ("/healthz", "GET", "http")}
NO_TOKENS = [
    ("authorization", "Bearer "), ("authorization", f"Bearer {TOKEN}x"), ("authorization", f"Bearer {TOKEN[:-1]}"), ("authorization", f"Bearer {TOKEN.upper()}"),
    ("authorization", f"Basic {TOKEN}"), ("authorization", TOKEN), ("x-token", TOKEN), ("cookie", f"rushes={TOKEN}"), ("cookie", f"rushes-{PORT + 1}={TOKEN}"),
    ("cookie", f"rushes-{PORT}={TOKEN}x"), ("cookie", f"rushes-{PORT}="), ("cookie", TOKEN), ("cookie", f"a=b, rushes-{PORT}={TOKEN}"), ("cookie", "\u00fc=\u00fc"),
]


def test_nothing_but_the_start_page_is_served_without_the_token(bare, routes):
    app = Guard(bare, PORT, TOKEN)
    for header in ((), *((header,) for header in NO_TOKENS)):
        found = statuses(app, routes, HOST, *header)
        assert {route for route in found if found[route] != 401} <= OPEN, header


def test_wrong_tokens_are_answered_ten_times_a_second_and_the_right_one_always(bare):
    app = Guard(bare, PORT, TOKEN)
    wrong = [{"path": "/rt/formats", "headers": [HOST, ("authorization", f"Bearer guess-{n}")], "client": "127.0.0.9"} for n in range(300)]
    found = [status for status, _, _ in ask_all(app, wrong)]
    assert set(found) == {401, 429} and 10 <= found.count(401) < 100        # 10 at once and 10 a second; a slow machine takes seconds
    assert ask(app, "/rt/formats", headers=[HOST, BEARER], client="127.0.0.9")[0] == 200
    status, headers, _ = ask(app, "/rt/formats", headers=[HOST], client="127.0.0.9")
    assert status == 401 or dict(headers)["retry-after"] == "1"


@pytest.mark.parametrize("token", ["", "short", "x" * 21])
def test_no_guard_without_a_token(bare, token):
    with pytest.raises(ValueError, match="128 random bits"):
        Guard(bare, PORT, token)


def test_the_start_page_hands_out_a_cookie_that_opens_the_rest(bare, routes):
    app = Guard(bare, PORT, TOKEN)
    cookies = [value for name, value in ask(app, headers=[HOST])[1] if name == "set-cookie"]
    assert cookies == [f"rushes-{PORT}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"]
    for header in (("cookie", cookies[0].partition(";")[0]), ("cookie", f"a=b; {COOKIE[1]};c=d"), BEARER, ("authorization", f"bearer  {TOKEN} ")):
        assert ask(app, "/rt/formats", headers=[HOST, header])[0] == 200
        assert ask(app, "/rt/ws", headers=[HOST, header], kind="websocket")[0] == 101
    replies = ask_all(app, [{"path": path, "method": method, "kind": kind, "headers": [HOST, *token]}
                            for path, method, kind in routes if path != "/" for token in ((), (COOKIE,))])
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
    assert ask(Guard(bare, PORT, TOKEN), path, headers=[HOST, COOKIE])[0] in (403, 404)


def test_without_the_guard_all_of_that_gets_through(desk, bare, routes):
    """The negative control: every host, origin, site and want of a token on every route, and then a real change by a stranger."""
    stranger = [("host", f"evil.example:{PORT}"), ("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")]
    found = statuses(bare, routes, *stranger)
    assert found == statuses(bare, routes, HOST, COOKIE) and found[("/rt/ws", "GET", "websocket")] == 101     # it tells nobody apart
    assert sum(status not in (401, 403) for status in found.values()) > 90
    status, headers, _ = ask(bare, headers=stranger)
    assert status == 200 and "content-security-policy" not in dict(headers)
    assert dict(headers)["access-control-allow-origin"] == "http://evil.example"
    assert ask(bare, "/rt/history/echo", "POST", [*stranger, JSON], b'{"a": "%s"}' % (b"x" * 2 * LIMIT))[0] == 200
    before = desk.state()
    body = b"--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"a.txt\"\r\n\r\nhello\r\n--b--\r\n"
    form = ("content-type", "multipart/form-data; boundary=b")
    ask(bare, "/gradio_api/upload", "POST", [*stranger, form], body)
    uploaded = [path for path in desk.uploads.rglob("a.txt")]
    assert uploaded and desk.state() != before
    assert ask(Guard(bare, PORT, TOKEN), "/gradio_api/upload", "POST", [HOST, COOKIE, form], body)[0] == 404
    assert [path for path in desk.uploads.rglob("a.txt")] == uploaded


def test_every_reply_carries_the_security_headers_and_none_allows_another_origin(bare, routes):
    app = Guard(bare, PORT, TOKEN)
    replies = ask_all(app, [{"path": path, "method": method, "kind": kind, "headers": [HOST, *token]}
                            for path, method, kind in routes for token in ((), (COOKIE,))])
    replies += [ask(app, headers=[("host", "evil.example")]), ask(app, "/rt/export", "POST", [HOST, COOKIE, ("content-length", "9" * 9)]),
                ask(app, "/rt/export", "POST", [HOST, COOKIE, ("content-type", "text/plain"), ("content-length", "2")], b"{}")]
    assert {status for status, _, _ in replies} >= {101, 200, 401, 403, 404, 413, 415}
    for status, headers, _ in replies:
        names = [name.lower() for name, _ in headers if name.lower() != "set-cookie"]
        assert len(names) == len(set(names))
        assert not [name for name in names if name.startswith("access-control-")]
        found = dict(headers)
        if status != 101:                           # what follows it is no document
            assert found["x-content-type-options"] == "nosniff" and found["referrer-policy"] == "no-referrer"
            assert "frame-ancestors 'none'" in found["content-security-policy"] and "default-src 'self'" in found["content-security-policy"]


def test_refusals_tell_nothing(bare):
    status, _, body = ask(Guard(bare, PORT, TOKEN), headers=[("host", "evil.example")])
    assert (status, body) == (403, b"Forbidden.")


@pytest.mark.parametrize("headers, status", [
    ([("content-length", str(LIMIT + 1))], 413), ([("content-length", "-1")], 400), ([("content-length", "1e3")], 400),
    ([("content-length", "5"), ("content-length", "6")], 400), ([("content-length", "\u00b2")], 400),
])
def test_bodies_that_announce_themselves_badly(bare, headers, status):
    assert ask(Guard(bare, PORT, TOKEN), "/rt/history/echo", "POST", [HOST, COOKIE, JSON, *headers], b"{}")[0] == status


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "text/plain; application/json", None])
def test_a_body_that_a_form_could_send_is_refused(bare, routes, kind):
    """T4. On every route that takes a body but those for dropped files."""
    app = Guard(bare, PORT, TOKEN)
    headers = [HOST, COOKIE, ("transfer-encoding", "chunked"), *([("content-type", kind)] if kind else [])]
    takers = [route for route in routes if route[1] in ("POST", "DELETE") and may(OWNER, route[1], route[0])]
    found = statuses(app, takers, *headers)
    assert len(takers) > 15 and {route for route in found if found[route] != 415} == {(path, "POST", "http") for path in LARGER_BODIES}


def test_a_body_that_grows_past_the_limit_is_cut_off(bare):
    """A chunked body names no length: it is counted as it comes."""
    body = b'{"a": "' + b"x" * (2 * LIMIT) + b'"}'
    app = Guard(bare, PORT, TOKEN)
    status, headers, _ = ask(app, "/rt/history/echo", "POST", [HOST, COOKIE, JSON], body, chunks=64)
    assert status in (400, 413) and "content-security-policy" in dict(headers)
    assert ask(app, "/rt/history/echo", "POST", [HOST, COOKIE, JSON], b'{"a": "b"}', chunks=3)[0] == 200
