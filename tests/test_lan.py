"""The door to the local network: who comes in, what a guest may do, and that the owner goes first."""

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from served import BEARER, COOKIE, JSON, PORT, TOKEN, as_json, ask, ask_all, filled, site, table
from test_live import Page, open_desk, prompts

from turbo_engine.fake import FakeEngine
from ui.clips import Edit
from ui.guard import Guard
from ui.lan import ENTRY, GUESTS, Lan, Rate
from ui.live import GUEST_PREVIEW
from ui.session import TURBO, Session
from ui.roles import GUEST, may

ROOT = Path(__file__).resolve().parents[1]
ADDRESS = "192.168.7.5"
HOST, ORIGIN, SERVER = ("host", f"{ADDRESS}:{PORT}"), ("origin", f"http://{ADDRESS}:{PORT}"), (ADDRESS, PORT)
pytestmark = [pytest.mark.timeout(120), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]


class Told(list):
    @property
    def key(self) -> str:
        return self[-1].rpartition("#")[2]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    lan = Lan(ADDRESS, PORT)
    with site(tmp_path_factory.mktemp("data"), lan) as made:
        made.lan, made.told = lan, Told()
        lan.open(made.told.append)
        yield made


@pytest.fixture
def guarded(desk):
    return Guard(desk.app, PORT, TOKEN, lan=desk.lan)


def enter(guarded, key: str, **settings):
    return ask(guarded, ENTRY, "POST", [HOST, ORIGIN, ("sec-fetch-site", "same-origin"), JSON], as_json({"key": key}), server=SERVER, **settings)


def cookie_of(reply) -> tuple[str, str]:
    return "cookie", dict(reply[1])["set-cookie"].partition(";")[0]


def test_a_key_opens_once_and_the_next_one_is_told(desk, guarded):
    key = desk.told.key
    assert re.fullmatch(rf"http://{ADDRESS}:{PORT}{ENTRY}#[\w-]{{43}}", desk.told[-1])
    status, headers, body = ask(guarded, ENTRY, headers=[HOST, ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], server=SERVER)
    assert status == 200 and key.encode() not in body and "set-cookie" not in dict(headers)     # a link seen by a chat program is not used up
    reply = enter(guarded, key)
    assert reply[0] == 200 and dict(reply[1])["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Strict")
    assert enter(guarded, key)[0] == 401 and desk.told.key != key
    cookie = cookie_of(reply)
    assert ask(guarded, "/", headers=[HOST, cookie], server=SERVER)[0] == 200
    assert ask(guarded, "/rt/ws", headers=[HOST, ORIGIN, cookie], server=SERVER, kind="websocket")[0] == 101
    assert ask(guarded, ENTRY, headers=[HOST, cookie], server=SERVER)[0] == 200


def test_without_a_guests_cookie_every_route_is_closed(desk, guarded):
    """T5. The owner's own token opens nothing here: it is not to go over the wire."""
    routes = [(filled(path), method, kind) for path, method, kind in table(desk.app)]
    opened = {(ENTRY, "GET", "http"), (ENTRY, "POST", "http"), ("/healthz", "GET", "http"), ("/manifest.json", "GET", "http")}
    for shown in ((), (COOKIE,), (BEARER,), (("cookie", f"rushes-guest-{PORT}=guess"),), (("cookie", f"rushes-guest-{PORT}={TOKEN}"),)):
        replies = ask_all(guarded, [{"path": path, "method": method, "kind": kind, "headers": [HOST, *shown], "server": SERVER} for path, method, kind in routes])
        assert {route for route, (status, _, _) in zip(routes, replies) if status != 401} <= opened
        assert not [1 for _, headers, _ in replies if "set-cookie" in dict(headers)]


def test_what_a_guest_may_is_what_the_list_says(desk, guarded):
    """T6: role and route, from the route table. Nothing that lists, deletes, exports, switches the model, stops others or runs code."""
    cookie = cookie_of(enter(guarded, desk.told.key))
    routes = [(filled(path), method, kind) for path, method, kind in table(desk.app)]
    requests = [{"path": path, "method": method, "kind": kind, "headers": [HOST, cookie], "server": SERVER} for path, method, kind in routes]
    opened = {(path, method) for (path, method, _), (status, _, _) in zip(routes, ask_all(guarded, requests)) if status not in (403, 404) or
              may(GUEST, method if _ == "http" else "WebSocket", path)}
    assert all(path.startswith(("/rt/clip/", "/rt/compare/", "/rt/viewer/", "/rt/ws", ENTRY, "/healthz")) for path, _ in opened if path.startswith("/rt") or "health" in path)
    assert not [path for path, _ in opened if path.startswith(("/mcp", "/metrics", "/readyz", "/rt/history", "/rt/export", "/rt/recipe", "/gradio_api/queue", "/gradio_api/call"))]
    assert {method for path, method in opened} <= {"GET", "HEAD", "POST"} and {path for path, method in opened if method == "POST"} == {ENTRY}
    assert guarded.refusals["role"] > 10
    assert all(status not in (401, 403) for status, _, _ in ask_all(desk.app, [{k: v for k, v in request.items() if k != "headers"} for request in requests
                                                                               if request["path"].startswith(("/rt/history", "/rt/export"))]))   # the control


def test_names_of_this_machine_do_not_mix_the_doors(desk, guarded):
    cookie = cookie_of(enter(guarded, desk.told.key))
    local = ("host", f"127.0.0.1:{PORT}")
    assert ask(guarded, "/", headers=[local], server=SERVER)[0] == 403                  # a guest who says to be at the machine
    assert ask(guarded, "/", headers=[local, COOKIE], server=SERVER)[0] == 403
    assert ask(guarded, "/", headers=[HOST, cookie])[0] == 403                          # and the other way round
    assert ask(guarded, ENTRY, headers=[local, COOKIE])[0] == 404
    for host in ("evil.example", f"evil.example:{PORT}", f"{ADDRESS}", f"{ADDRESS}:80", f"{ADDRESS}.nip.example:{PORT}", f"router.local:{PORT}"):
        assert ask(guarded, "/", headers=[("host", host), cookie], server=SERVER)[0] == 403
    for origin in ("null", "http://evil.example", f"http://127.0.0.1:{PORT}", f"https://{ADDRESS}:{PORT}"):
        assert ask(guarded, "/rt/ws", headers=[HOST, cookie, ("origin", origin)], server=SERVER, kind="websocket")[0] == 403


def test_guessing_is_slow_and_does_not_slow_the_owner(desk, guarded):
    """T5: 1,000 wrong keys from one address."""
    start = time.monotonic()
    found = [enter(guarded, f"guess-{number}", client="192.168.7.66")[0] for number in range(1000)]
    allowed = 10 + 10 * (time.monotonic() - start) + 1
    assert set(found) <= {401, 429} and found.count(401) <= allowed and found.count(429) > 100
    for _ in range(20):
        assert enter(guarded, "x", client="192.168.7.67")[0] in (401, 429)
    assert enter(guarded, desk.told.key, client="192.168.7.67")[0] in (200, 429)        # not even looked at when too many came
    assert ask(guarded, "/rt/formats", headers=[("host", f"127.0.0.1:{PORT}"), COOKIE], client="127.0.0.1")[0] == 200


def test_a_guest_who_asks_for_too_much_is_told_to_wait(desk, guarded):
    cookie = cookie_of(enter(guarded, desk.told.key))
    replies = ask_all(guarded, [{"path": "/rt/compare/x/y", "headers": [HOST, cookie], "server": SERVER, "client": "192.168.7.70"} for _ in range(1200)])
    late = [dict(headers) for status, headers, _ in replies if status == 429]
    assert len(late) > 100 and all(headers["retry-after"] == "1" for headers in late)


def test_rate():
    now = [0.0]
    rate = Rate(10, 5, lambda: now[0])
    assert [rate.spend("a") for _ in range(7)] == [True] * 5 + [False] * 2 and rate.spend("b")
    now[0] = 0.25
    assert [rate.spend("a") for _ in range(4)] == [True, True, False, False]
    for number in range(3 * Rate.MOST):
        rate.spend(str(number))
    assert len(rate._left) <= Rate.MOST + 1


def test_seventeen_guests_are_sixteen():
    told = Told()
    lan = Lan(ADDRESS, PORT)
    assert lan.enter("") is None
    lan.open(told.append)
    cookies = [lan.enter(told.key) for _ in range(GUESTS + 1)]
    assert len(set(told)) == GUESTS + 2 and [lan.knows(cookie) for cookie in cookies] == [False] + [True] * GUESTS


# -- at the desk -------------------------------------------------------------------------------------------------------

class Visitor(Page):
    def __init__(self, desk):
        self.desk, self.session, self.messages, self.frames = desk, Session(asyncio.get_running_loop(), guest=True), [], []
        self._task = asyncio.create_task(self._read())
        desk.connect(self.session)


def test_the_owner_goes_first_and_nothing_of_theirs_is_told():
    engine = FakeEngine(step_s=0.05)

    async def whole():
        async with open_desk(engine) as desk:
            guest, owner = Visitor(desk), Page(desk)
            owner.render(1, "mine in full", num_steps=6)
            await owner.until(type="progress", mode="full", stage="denoise", step=1)
            guest.edit(1, "theirs")
            guest.render(2, "theirs in full", num_steps=4)
            await asyncio.sleep(0.1)
            owner.edit(2, "mine")
            await guest.until(type="clip", generation=2)
            desk.tell_all({"type": "kept", "entry": {"prompt": "mine"}}, guests=False)
            await asyncio.sleep(0.1)
            assert owner.of("kept") and not guest.of("kept") and "mine" not in str(guest.messages)
            guest.close(), owner.close()
    asyncio.run(whole())
    assert prompts(engine.finished)[1:] == ["mine", "mine in full", "theirs", "theirs in full"]


def test_a_guests_preview_gives_way_to_the_owners():
    engine = FakeEngine(step_s=0.2)

    async def whole():
        async with open_desk(engine) as desk:
            guest, owner = Visitor(desk), Page(desk)
            guest.edit(1, "theirs")
            await guest.until(type="progress", stage="denoise", step=1)
            owner.edit(1, "mine")
            await owner.until(type="clip", kind=TURBO)
            await guest.until(type="clip", kind=TURBO)
            guest.close(), owner.close()
    asyncio.run(whole())
    assert prompts(engine.finished)[1:] == ["mine", "theirs"] and GUEST_PREVIEW > 1


def test_a_guest_has_no_history(tmp_path):
    from turbo_engine.store import Store
    from ui.archive import Archive
    from ui.handlers import _obey

    async def whole():
        async with open_desk(FakeEngine(), archive=Archive(Store(tmp_path))) as desk:
            owner, guest = Page(desk), Visitor(desk)
            owner.edit(1, "mine")
            await owner.until(type="kept")
            entry, = desk.archive.store.list()
            for op in ("open", "pick"):
                _obey(desk, None, guest.session, f'{{"op": "{op}", "generation": 3, "place": "a", "id": "{entry.id}"}}')
            assert "not for guests" in (await guest.until(type="error"))["message"]
            await asyncio.sleep(0.2)
            assert len(guest.of("error")) == 2 and not guest.of("clip") and not guest.of("kept")
            assert desk.clips.find(Edit(1, "mine", 7)) is not None
            owner.close(), guest.close()
    asyncio.run(whole())


# -- the front door ----------------------------------------------------------------------------------------------------

@contextmanager
def run_app(folder: Path, *flags: str):
    script = ("import sys, app\nfrom pathlib import Path\nfrom turbo_engine.fake import FakeEngine\nfrom turbo_engine.presets import load_preset\n"
              "sys.exit(app.serve(lambda preset, folder: FakeEngine(preset), load_preset('pocket'), port=0, data_dir=Path(sys.argv[1]), open_browser=False, lan=sys.argv[2]))")
    with subprocess.Popen([sys.executable, "-c", script, str(folder), *flags], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "PYTHONUNBUFFERED": "1"}) as child:
        try:
            yield child
        finally:
            child.kill()


def listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def test_no_door_without_a_token(tmp_path):
    """T5. Where the token cannot be kept from others, nothing listens and it says so."""
    (tmp_path / "token").mkdir()
    with run_app(tmp_path, "127.0.0.2") as child:
        assert child.wait(60) == 2
        said = child.stdout.read()
        assert said.startswith("app.py: ") and said.count("\n") == 1 and "token" in said


def test_an_address_that_is_not_ours_is_refused(tmp_path):
    with run_app(tmp_path, "192.0.2.77") as child:
        assert child.wait(60) == 2 and "--lan ADDRESS" in child.stdout.read()


def test_a_guest_comes_in_over_the_network(tmp_path):
    """127.0.0.2 stands for the network: another address of this machine."""
    import httpx
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect
    with run_app(tmp_path, "127.0.0.2") as child:
        port = int(re.search(r":(\d+)/", child.stdout.readline())[1])
        child.stdout.readline()
        url = re.search(r"http://\S+", child.stdout.readline())[0]
        assert url.startswith(f"http://127.0.0.2:{port}{ENTRY}#")
        listening = {address for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3") if listens(address, port)}
        assert listening == {"127.0.0.1", "127.0.0.2"}                  # never all interfaces
        with httpx.Client(base_url=f"http://127.0.0.2:{port}", timeout=30) as http:
            assert http.get("/").status_code == 401
            spoof = {"X-Forwarded-For": "127.0.0.1", "Forwarded": "for=127.0.0.1", "X-Real-IP": "127.0.0.1", "X-Forwarded-Host": f"127.0.0.1:{port}"}
            assert http.get("/", headers=spoof).status_code == 401
            assert http.post(ENTRY, json={"key": url.rpartition("#")[2]}).status_code == 200
            assert http.get("/").status_code == 200 and http.get("/rt/history").status_code == 403
            while not (line := child.stdout.readline()).startswith("For one guest: "):
                assert "refused" in line
            assert url not in line
            headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in http.cookies.items())}
        with connect(f"ws://127.0.0.2:{port}/rt/ws", additional_headers=headers) as page:
            assert '"guest": true' in page.recv()
        with pytest.raises(InvalidStatus):
            connect(f"ws://127.0.0.1:{port}/rt/ws", additional_headers=headers)
        child.terminate()
        assert child.wait(30) == 0
