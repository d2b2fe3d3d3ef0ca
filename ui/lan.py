"""The door to the local network, open only with `--lan`: one address, keys that open once, a cookie for each guest.

A key rides behind the # of its address, where no server, log or chat program's look ahead sees it; the page there sends it by itself,
so that a link followed from anywhere ends on a page of this origin, whose cookie may be SameSite=Strict.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from fastapi import Body, FastAPI, HTTPException
from fastapi.responses import HTMLResponse, JSONResponse

ENTRY = "/rt/enter"
GUESTS = 16             # at once; the one who came first leaves when more come
KEY_BYTES = 32
_PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>Rushes</title><body style="background:#0d0e11;color:#ccc;font:16px sans-serif;padding:2em">
<p id="line">One moment</p><script>
fetch(location.pathname, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({key: location.hash.slice(1)})})
  .then((reply) => reply.ok ? location.replace("/") : reply.json().then((said) => { document.getElementById("line").textContent = said.detail; }))
  .catch(() => { document.getElementById("line").textContent = "The app did not answer."; });
</script>"""


class Rate:
    """At most per_s a second for each address, and burst at once. Beyond MOST addresses the one not seen for longest is forgotten."""

    MOST = 1000

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic):
        self._per_s, self._burst, self._clock = per_s, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()       # what is left, and when that was so

    def left(self, address: str) -> float:
        left, at = self._left.get(address, (self._burst, self._clock()))
        return min(self._burst, left + (self._clock() - at) * self._per_s)

    def spend(self, address: str) -> bool:
        """False, and nothing spent, where less than one is left."""
        left = self.left(address)
        if left < 1:
            return False
        self._left[address] = left - 1, self._clock()
        self._left.move_to_end(address)
        if len(self._left) > self.MOST:
            self._left.popitem(last=False)
        return True


class Lan:
    """address: of this machine on that network. Nobody comes in before `open`."""

    def __init__(self, address: str, port: int):
        self.address, self.port, self.host = address, port, f"{address}:{port}"
        self._tell, self._lock = None, threading.Lock()
        self._guests: OrderedDict[str, None] = OrderedDict()
        self._key = secrets.token_urlsafe(KEY_BYTES)

    def open(self, tell: Callable[[str], None]) -> None:
        """tell(url): called with each new one-time address, the first at once."""
        with self._lock:
            self._tell = tell
            self._new_key()

    def _new_key(self) -> None:
        self._key = secrets.token_urlsafe(KEY_BYTES)
        self._tell(f"http://{self.host}{ENTRY}#{self._key}")

    def enter(self, key: str) -> str | None:
        """The cookie of a new guest; None for a key that is wrong or used."""
        with self._lock:
            if not secrets.compare_digest(key.encode(), self._key.encode()):
                return None
            guest = secrets.token_urlsafe(KEY_BYTES)
            self._guests[guest] = None
            while len(self._guests) > GUESTS:
                self._guests.popitem(last=False)
            self._new_key()
            return f"{self.cookie_name}={guest}"

    @property
    def cookie_name(self) -> str:
        return f"rushes-guest-{self.port}"

    def knows(self, cookie: str) -> bool:
        """Whether "name=value" is a guest's; compared in constant time."""
        with self._lock:
            return any([secrets.compare_digest(cookie.encode(), f"{self.cookie_name}={guest}".encode()) for guest in self._guests])


def add_lan_routes(app: FastAPI, lan: Lan) -> None:
    @app.get(ENTRY)
    def landing() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Cache-Control": "no-store"})

    @app.post(ENTRY)
    def enter(key: str = Body(embed=True, max_length=200)) -> JSONResponse:
        cookie = lan.enter(key)
        if cookie is None:
            raise HTTPException(401, "This address was used already, or it is not whole; ask for a new one.")
        return JSONResponse({}, headers={"Set-Cookie": f"{cookie}; Path=/; HttpOnly; SameSite=Strict", "Cache-Control": "no-store"})


def own_address() -> str:
    """This machine's address on the network its traffic would leave by; nothing is sent. Raises: OSError without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))                     # kept free for examples, RFC 5737; a UDP connect sends nothing
        return probe.getsockname()[0]
