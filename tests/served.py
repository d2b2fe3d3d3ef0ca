"""The real app over raw ASGI, so that headers can be doubled or missing; its route table; and what its state is."""

import asyncio
import gc
import hashlib
import json
import re
import warnings
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

from starlette.routing import Mount, WebSocketRoute

from turbo_engine.fake import FakeEngine

PORT = 7860
SELF = f"127.0.0.1:{PORT}"
TOKEN = "3q2-7w_the-token-of-this-launch"
COOKIE, BEARER = ("cookie", f"rushes-{PORT}={TOKEN}"), ("authorization", f"Bearer {TOKEN}")
HOST = ("host", SELF)
JSON = ("content-type", "application/json")
_addresses = count()


class Site:
    """app: the real app without its guard. For the test that changes what it must not: engine and data folder."""

    def __init__(self, folder: Path, lan=None):
        from gradio.utils import get_upload_folder

        from turbo_engine.store import Store
        from ui.archive import Archive
        from ui.live import Desk
        from ui.models import Models, opening_of
        from ui.site import build_site
        self.folder, self.engine, self.uploads = folder, FakeEngine(), Path(get_upload_folder())
        self.desk = Desk(lambda: self.engine, opening_of(self.engine.preset), archive=Archive(Store(folder)))
        self.app, self.api, self.health = build_site(self.desk, Models(self.engine.preset), folder, PORT, lan=lan)

    @property
    def store(self):
        return self.desk.archive.store

    def state(self) -> str:
        """A digest of all that a request could change: the disk, the database, what the engine was asked, what is under way."""
        digest = hashlib.sha256()
        for path in sorted([*self.folder.rglob("*"), *self.uploads.rglob("*")]):
            if not path.name.startswith("history.sqlite3") and path.is_file():
                digest.update(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
        rows = [self.store._read(f"SELECT * FROM {table}") for table in ("clips", "settings")]
        digest.update(repr((rows, self.engine.requests, len(self.desk._sessions), list(self.desk._renders), self.api._open)).encode())
        return digest.hexdigest()


@contextmanager
def site(folder: Path, lan=None):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")             # Gradio's imports, not ours
        made = Site(folder, lan)
        gc.collect()
    yield made
    made.desk.archive.close()
    gc.collect()


def table(app) -> list[tuple[str, str, str]]:
    """Every route the app has, Gradio's own included: (path as it stands, method, kind)."""
    found = []
    for route in app.routes:
        inner = route.app if isinstance(route, Mount) else getattr(route, "original_router", None)     # of an included router
        path = getattr(route, "path", "")
        if inner is not None:
            rest = table(inner) if hasattr(inner, "routes") else [("/{file}", "GET", "http")]
            found += [(path + below, *others) for below, *others in rest]
        elif isinstance(route, WebSocketRoute):
            found.append((path, "GET", "websocket"))
        else:
            found += [(path, method, "http") for method in sorted(route.methods)]
    return sorted(set(found))


def filled(path: str, value: str = "x") -> str:
    return re.sub(r"\{[^}]*\}", lambda _: value, path)


def ask(app, path="/", method="GET", headers=(), body=b"", **settings):
    """One request: (status, headers, body). A WebSocket that is accepted has status 101."""
    return asyncio.run(asking(app, path, method, headers, body, **settings))


def ask_all(app, requests):
    """Many requests at once cheap: an iterable of dicts or tuples of arguments of `ask`; replies in order."""
    async def talk():
        return [await asking(app, *(request if isinstance(request, tuple) else ()), **(request if isinstance(request, dict) else {}))
                for request in requests]
    return asyncio.run(talk())


async def asking(app, path="/", method="GET", headers=(), body=b"", *, chunks=1, kind="http", query="", client=None,
                 server=("127.0.0.1", PORT), patience_s=2):
    """client: an address; a new one for each request if left out, so that no limit on one of them is met. patience_s: from the first
    byte of the reply to its end; some have none."""
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    number = next(_addresses)
    scope = {
        "type": kind, "method": method, "path": path, "raw_path": quote(path, safe="/%=").encode(), "query_string": query.encode(), "headers": headers,
        "scheme": "http" if kind == "http" else "ws", "http_version": "1.1", "asgi": {"version": "3.0"}, "root_path": "",
        "client": (client or f"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}", 50000), "server": server,
        "subprotocols": [], "state": {},
    }
    if kind == "websocket":
        del scope["method"]
    size = -(-len(body) // chunks)
    inbox = asyncio.Queue()
    if kind == "websocket":
        inbox.put_nowait({"type": "websocket.connect"})
    for i in range(chunks if kind == "http" else 0):
        inbox.put_nowait({"type": "http.request", "body": body[i * size:(i + 1) * size], "more_body": i < chunks - 1})
    sent, started = [], asyncio.Event()

    async def send(message):
        sent.append(message)
        if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start", "websocket.close"):
            started.set()

    async def receive():
        if inbox.empty() and kind == "http":
            await asyncio.sleep(3600)
        return await inbox.get()

    task, begun = asyncio.create_task(app(scope, receive, send)), asyncio.create_task(started.wait())
    await asyncio.wait({task, begun}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
    begun.cancel()
    if kind == "websocket":
        inbox.put_nowait({"type": "websocket.disconnect", "code": 1000})
    await asyncio.wait({task}, timeout=patience_s)
    if task.done() and task.exception() and not sent:
        raise task.exception()
    task.cancel()
    await asyncio.gather(task, begun, return_exceptions=True)
    if kind == "websocket" and sent[0]["type"] == "websocket.accept":
        return 101, [], b""
    if kind == "websocket" and sent[0]["type"] == "websocket.close":
        return 403, [], b""                         # as servers answer for an app that closes before it accepts
    start = next(message for message in sent if message["type"].endswith("http.response.start"))
    whole = b"".join(message.get("body", b"") for message in sent if message["type"].endswith("http.response.body"))
    return start["status"], [(n.decode("latin-1"), v.decode("latin-1")) for n, v in start["headers"]], whole


def as_json(body: dict) -> bytes:
    return json.dumps(body).encode()
