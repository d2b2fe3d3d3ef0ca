"""Who may talk to the desk: the person at this machine, through a page this app served. HTTP and WebSocket, outermost.

Being on localhost is no wall: any web page the user opens can send requests to a local port, and a rebound DNS name
makes them look local. Gradio's CORS layer only withholds a header and never refuses (the control in tests/test_guard.py
shows it), so this guard stands before every route, Gradio's own included, and refuses when:

- Host is not exactly one of this server's own names;
- Origin is present and is not this server (`null` is not);
- Sec-Fetch-Site tells of another site, unless a person follows a link to the start page;
- this launch's token comes neither as cookie nor as header. The start page is open and hands out the cookie; code reads the
  token from a file that only this user can read. At the door to the local network it is a guest's cookie (`ui/lan.py`);
- the route is not on the list of the one who asks (`ui/roles.py`), or would fetch from another server;
- the body is not JSON, or larger than anything this app has a use for; or there are too many requests.

It also puts the security headers on every reply and takes any allow-origin header off.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from collections import Counter
from pathlib import Path

from .lan import ENTRY, Lan, Rate
from .roles import ANYONE, GUEST, OWNER, may

log = logging.getLogger("rushes.guard")

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
MAX_BODY_BYTES = 1 << 20    # the largest honest body but one is a Gradio call of a few hundred bytes
LARGER_BODIES = {"/rt/recipe": 257 << 20, "/rt/picture": 33 << 20}      # a dropped clip, read into memory for its recipe and thrown away
OUTWARD = ("/gradio_api/file=http:", "/gradio_api/file=https:")
TOKEN_FILE, TOKEN_BYTES = "token", 32
TOKENLESS_PER_S = 10        # requests without a token, from one address
GUEST_PER_S, GUEST_BURST, GUEST_SOCKETS = 60, 400, 16     # a page is some 100 requests
_WORDS = {
    400: "Bad request.", 403: "Forbidden.", 404: "Not found.", 413: "Too large.", 415: "Expected JSON.", 429: "Too many requests.",
    401: "Who is there? A browser opens the start page first; code sends the header \"Authorization: Bearer TOKEN\", and the app "
         "says at its start which file holds the token.",
}

# Gradio compiles component templates with `new Function` and boots from an inline script: without 'unsafe-eval' and
# 'unsafe-inline' its page stays blank (tried in Chromium). Everything that leaves this origin stays refused.
CONTENT_SECURITY_POLICY = "; ".join((
    "default-src 'self'",
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "media-src 'self' blob:",
    "font-src 'self' data:",
    "worker-src 'self' blob:",
    "connect-src 'self' {sockets}",
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
))
_CORS_PREFIX = b"access-control-"


def new_token(folder: Path) -> tuple[str, Path]:
    """(a token for this launch, the file that holds it for code of this user). Raises: OSError."""
    token, path = secrets.token_urlsafe(TOKEN_BYTES), folder / TOKEN_FILE
    path.unlink(missing_ok=True)                    # never into a file that somebody else may have opened
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    return token, path


class Guard:
    """ASGI middleware. `refusals` counts them by reason.

    Args:
        port: the one this server listens on, so that names with another port are strangers.
        token: of at least 128 random bits. Raises: ValueError for a shorter one.
        lan: the door to the local network, None for none.
    """

    def __init__(self, app, port: int, token: str, *, lan: Lan | None = None, max_body_bytes: int = MAX_BODY_BYTES):
        if len(token) < 22:                         # 128 bits in base64
            raise ValueError("token: expected at least 128 random bits; without one nobody may be served")
        self._app, self._token, self._lan = app, token, lan
        self._cookie = f"rushes-{port}={token}"     # cookies are shared by all ports of a host
        self._set_cookie = (b"set-cookie", f"{self._cookie}; Path=/; HttpOnly; SameSite=Strict".encode())
        self._max_body_bytes = max_body_bytes
        self._hosts = {f"{name}:{port}" for name in LOCAL_NAMES}
        if port == 80:      # browsers leave the default port out
            self._hosts |= set(LOCAL_NAMES)
        self._tokenless, self._guests = Rate(TOKENLESS_PER_S, TOKENLESS_PER_S), Rate(GUEST_PER_S, GUEST_BURST)
        self._guest_sockets = 0
        self.refusals: Counter[str] = Counter()
        sockets = " ".join(f"ws://{host}" for host in sorted({*self._hosts, *([lan.host] if lan else [])}) if not host.startswith("["))
        self._headers = [
            (b"content-security-policy", CONTENT_SECURITY_POLICY.format(sockets=sockets).encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), usb=(), payment=()"),
        ]

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        refusal = self._refusal(scope)
        if refusal is not None:
            status, reason, line = refusal
            self.refusals[reason] += 1
            if reason != "rate":                    # or the log would be the flood
                log.warning("refused %s %r: %s", _method(scope), scope["path"][:80], line)
            return await self._refuse(scope, receive, send, status)
        if scope["type"] == "http":
            return await self._serve(scope, receive, send)
        guest = scope["state"]["role"] == GUEST
        self._guest_sockets += guest
        try:
            await self._app(scope, receive, send)
        finally:
            self._guest_sockets -= guest

    def _refusal(self, scope) -> tuple[int, str, str] | None:
        """Status, reason (one of few) and line for the log; None when the request may pass, and its role is in the scope's state."""
        headers = scope["headers"]
        return (self._not_this_server(scope, headers) or self._not_allowed(scope, headers) or self._too_much(scope, headers))

    def _not_this_server(self, scope, headers):
        hosts = _values(headers, b"host")
        if len(hosts) != 1 or hosts[0] not in ({self._lan.host} if self._at_lan(scope) else self._hosts):
            return 403, "host", f"Host {hosts!r} is not this server"
        origins = _values(headers, b"origin")
        if len(origins) > 1 or (origins and origins[0] != f"http://{hosts[0]}"):
            return 403, "origin", f"Origin {origins!r} is not this server"
        sites = _values(headers, b"sec-fetch-site")
        if any(site not in ("same-origin", "none") for site in sites) and not _follows_link(scope, ENTRY if self._at_lan(scope) else "/"):
            return 403, "site", f"Sec-Fetch-Site {sites!r}"

    def _not_allowed(self, scope, headers):
        at_lan, address = self._at_lan(scope), (scope.get("client") or ("",))[0]
        if at_lan and self._tokenless.left(address) < 1:    # not even looked at: nobody guesses faster than that
            return 429, "rate", ""
        role, method, path = self._role(headers, at_lan), _method(scope), scope["path"]
        if self._is_open(scope, at_lan):
            if at_lan and role is None and not self._tokenless.spend(address):
                return 429, "rate", ""
        elif role is None:
            return (401, "token", "no token of this launch") if self._tokenless.spend(address) else (429, "rate", "")
        elif not may(role, method, path):
            known = role == GUEST and may(OWNER, method, path)
            return (403, "role", "not for guests") if known else (404, "route", "a route with no use here")
        if path.lower().startswith(OUTWARD):
            return 403, "route", "it would fetch from another server"
        if role == GUEST and (not self._guests.spend(address) or (method == "WebSocket" and self._guest_sockets >= GUEST_SOCKETS)):
            return 429, "rate", ""
        scope.setdefault("state", {})["role"] = role or ANYONE

    def _too_much(self, scope, headers):
        lengths = _values(headers, b"content-length")
        if len(lengths) > 1 or any(not length.isdecimal() for length in lengths):
            return 400, "length", f"Content-Length {lengths!r}"
        if lengths and int(lengths[0]) > self._limit(scope):
            return 413, "length", f"a body of {lengths[0]} bytes"
        has_body = (lengths and int(lengths[0])) or _values(headers, b"transfer-encoding")
        kinds = [kind.partition(";")[0].strip().lower() for kind in _values(headers, b"content-type")]
        if has_body and kinds != ["application/json"] and scope["path"] not in LARGER_BODIES:
            return 415, "type", f"Content-Type {kinds!r}"        # a form of another site can send all but JSON

    def _at_lan(self, scope) -> bool:
        """Whether it came in at the local network's door. The owner does not, whatever they show: their token is not to go over a wire."""
        return self._lan is not None and (scope.get("server") or ("",))[0] == self._lan.address

    def _is_open(self, scope, at_lan: bool) -> bool:
        """Whether it is served without a token."""
        method, path = _method(scope), scope["path"]
        if at_lan and path == ENTRY:
            return method in ("GET", "POST")
        return may(ANYONE, method, path) or (not at_lan and _is_get(scope, "/"))

    def _role(self, headers, at_lan: bool) -> str | None:
        """By cookie or header; compared in constant time."""
        cookies = [cookie.strip() for line in _values(headers, b"cookie") for cookie in line.split(";")]
        if at_lan:
            return GUEST if any([self._lan.knows(cookie) for cookie in cookies]) else None
        bearers = [line[7:].strip() for line in _values(headers, b"authorization") if line[:7].lower() == "bearer "]
        pairs = [(cookie, self._cookie) for cookie in cookies] + [(bearer, self._token) for bearer in bearers]
        return OWNER if any([hmac.compare_digest(given.encode(), wanted.encode()) for given, wanted in pairs]) else None

    def _limit(self, scope) -> int:
        return LARGER_BODIES.get(scope["path"], self._max_body_bytes)

    async def _refuse(self, scope, receive, send, status: int) -> None:
        words = _WORDS[status].encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(words)).encode()), *self._headers]
        kind = "http.response"
        if scope["type"] == "websocket":
            await receive()                                     # websocket.connect
            kind = "websocket.http.response"
        if status == 429:
            headers.append((b"retry-after", b"1"))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
            if scope["type"] == "websocket" and _values(scope["headers"], b"origin") and not self._at_lan(scope):
                headers.append(self._set_cookie)                # a page of ours that outlived its server: it is let in at its next try
        await send({"type": f"{kind}.start", "status": status, "headers": headers})
        await send({"type": f"{kind}.body", "body": words})

    async def _serve(self, scope, receive, send) -> None:
        """Pass the request on, counting its body (a chunked one names no length) and dressing the reply."""
        received, started, refused = 0, False, False

        async def counted_receive():
            nonlocal received, refused
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit(scope):
                refused = True
                log.warning("refused %s %r: a body too large", scope["method"], scope["path"][:80])
                return {"type": "http.disconnect"}
            return message

        async def dressed_send(message):
            nonlocal started
            if refused:
                return                                  # the app may still answer a request that is already refused
            if message["type"] == "http.response.start":
                started = True
                ours = {name for name, _ in self._headers}
                kept = [
                    (name, value) for name, value in message["headers"]
                    if name.lower() not in ours and not name.lower().startswith(_CORS_PREFIX)
                ]
                cookie = [self._set_cookie] if _is_get(scope, "/") and not self._at_lan(scope) else []
                message = {**message, "headers": [*kept, *self._headers, *cookie]}
            await send(message)

        try:
            await self._app(scope, counted_receive, dressed_send)
        except Exception:
            if not refused:                                     # "client disconnected" is our own doing when refused
                raise
        if refused and not started:
            await self._refuse(scope, receive, send, 413)


def _values(headers, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]


def _method(scope) -> str:
    return scope["method"] if scope["type"] == "http" else "WebSocket"


def _is_get(scope, path: str) -> bool:
    return _method(scope) == "GET" and scope["path"] == path


def _follows_link(scope, path: str) -> bool:
    """A person clicked a link to that place on some page: a whole-tab GET of it. Nothing else may come from another site."""
    headers = scope["headers"]
    return (
        _is_get(scope, path)
        and _values(headers, b"sec-fetch-mode") == ["navigate"]
        and _values(headers, b"sec-fetch-dest") == ["document"]
    )
