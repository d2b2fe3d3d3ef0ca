"""Who may talk to the desk: the person at this machine, through a page this app served. HTTP and WebSocket, outermost.

Being on localhost is no wall: any web page the user opens can send requests to a local port, and a rebound DNS name
makes them look local. Gradio's CORS layer only withholds a header and never refuses (the control in tests/test_guard.py
shows it), so this guard stands before every route, Gradio's own included, and refuses on six grounds:

- Host is not exactly one of this server's own names;
- Origin is present and is not this server (`null` is not);
- Sec-Fetch-Site tells of another site, unless a person follows a link to the start page;
- this launch's token comes neither as cookie nor as header. The start page is open and hands out the cookie; code reads the
  token from a file that only this user can read;
- the route is one of Gradio's that would fetch from another server;
- the body is larger than anything this app has a use for.

It also puts the security headers on every reply and takes any allow-origin header off.
"""

from __future__ import annotations

import hmac
import logging
import os
import secrets
from pathlib import Path

log = logging.getLogger("rushes.guard")

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
MAX_BODY_BYTES = 1 << 20    # the largest honest body but one is a Gradio call of a few hundred bytes
LARGER_BODIES = {"/rt/recipe": 257 << 20}      # a dropped clip, read into memory for its recipe and thrown away
OUTWARD = ("/gradio_api/proxy=", "/gradio_api/file=http:", "/gradio_api/file=https:")
TOKENLESS = ("/", "/manifest.json")            # a browser asks for a manifest without cookies
TOKEN_FILE = "token"
_WORDS = {
    400: "Bad request.", 403: "Forbidden.", 413: "Too large.",
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
    token, path = secrets.token_urlsafe(32), folder / TOKEN_FILE
    path.unlink(missing_ok=True)                    # never into a file that somebody else may have opened
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    return token, path


class Guard:
    """ASGI middleware. port: the one this server listens on, so that names with another port are strangers."""

    def __init__(self, app, port: int, token: str, *, max_body_bytes: int = MAX_BODY_BYTES):
        self._app = app
        self._token = token
        self._cookie = f"rushes-{port}={token}"     # cookies are shared by all ports of a host
        self._set_cookie = (b"set-cookie", f"{self._cookie}; Path=/; HttpOnly; SameSite=Strict".encode())
        self._max_body_bytes = max_body_bytes
        self._hosts = {f"{name}:{port}" for name in LOCAL_NAMES}
        if port == 80:      # browsers leave the default port out
            self._hosts |= set(LOCAL_NAMES)
        sockets = " ".join(f"ws://{host}" for host in sorted(self._hosts) if not host.startswith("["))
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
            status, reason = refusal
            log.warning("refused %s %r: %s", scope.get("method", "WebSocket"), scope["path"][:80], reason)
            return await self._refuse(scope, receive, send, status)
        if scope["type"] == "websocket":
            return await self._app(scope, receive, send)
        await self._serve(scope, receive, send)

    def _refusal(self, scope) -> tuple[int, str] | None:
        """The status to answer with and the reason for the log, or None when the request may pass."""
        headers = scope["headers"]
        hosts = _values(headers, b"host")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return 403, f"Host {hosts!r} is not this server"
        origins = _values(headers, b"origin")
        if len(origins) > 1 or (origins and origins[0] != f"http://{hosts[0]}"):
            return 403, f"Origin {origins!r} is not this server"
        sites = _values(headers, b"sec-fetch-site")
        if any(site not in ("same-origin", "none") for site in sites) and not _follows_link_to_start(scope):
            return 403, f"Sec-Fetch-Site {sites!r}"
        if not (_is_get(scope, *TOKENLESS) or self._knows_token(headers)):
            return 401, "no token of this launch"
        if scope["path"].lower().startswith(OUTWARD):
            return 403, "it would fetch from another server"
        lengths = _values(headers, b"content-length")
        if len(lengths) > 1 or any(not length.isdecimal() for length in lengths):
            return 400, f"Content-Length {lengths!r}"
        if lengths and int(lengths[0]) > self._limit(scope):
            return 413, f"a body of {lengths[0]} bytes"
        return None

    def _knows_token(self, headers) -> bool:
        """Whether a cookie or a header has it; compared in constant time."""
        cookies = [cookie.strip() for line in _values(headers, b"cookie") for cookie in line.split(";")]
        bearers = [line[7:].strip() for line in _values(headers, b"authorization") if line[:7].lower() == "bearer "]
        pairs = [(cookie, self._cookie) for cookie in cookies] + [(bearer, self._token) for bearer in bearers]
        return any([hmac.compare_digest(given.encode(), wanted.encode()) for given, wanted in pairs])

    def _limit(self, scope) -> int:
        return LARGER_BODIES.get(scope["path"], self._max_body_bytes)

    async def _refuse(self, scope, receive, send, status: int) -> None:
        words = _WORDS[status].encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(words)).encode()), *self._headers]
        kind = "http.response"
        if scope["type"] == "websocket":
            await receive()                                     # websocket.connect
            kind = "websocket.http.response"
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
            if scope["type"] == "websocket" and _values(scope["headers"], b"origin"):
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
                cookie = [self._set_cookie] if _is_get(scope, "/") else []
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


def _is_get(scope, *paths: str) -> bool:
    return scope["type"] == "http" and scope["method"] == "GET" and scope["path"] in paths


def _follows_link_to_start(scope) -> bool:
    """A person clicked a link to us on some page: a whole-tab GET of "/". Nothing else may come from another site."""
    headers = scope["headers"]
    return (
        _is_get(scope, "/")
        and _values(headers, b"sec-fetch-mode") == ["navigate"]
        and _values(headers, b"sec-fetch-dest") == ["document"]
    )
