"""Who may talk to the desk: the person at this machine, through a page this app served. HTTP and WebSocket, outermost.

Being on localhost is no wall: any web page the user opens can send requests to a local port, and a rebound DNS name
makes them look local. Gradio's CORS layer only withholds a header and never refuses (the control in tests/test_guard.py
shows it), so this guard stands before every route, Gradio's own included, and refuses on four grounds:

- Host is not exactly one of this server's own names;
- Origin is present and is not this server (`null` is not);
- Sec-Fetch-Site tells of another site, unless a person follows a link to the start page;
- the body is larger than anything this app has a use for.

It also puts the security headers on every reply and takes any allow-origin header off.
"""

from __future__ import annotations

import logging

log = logging.getLogger("rushes.guard")

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
MAX_BODY_BYTES = 1 << 20    # the largest honest body but one is a Gradio call of a few hundred bytes
LARGER_BODIES = {"/rt/recipe": 257 << 20}      # a dropped clip, read into memory for its recipe and thrown away

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


class Guard:
    """ASGI middleware. port: the one this server listens on, so that names with another port are strangers."""

    def __init__(self, app, port: int, *, max_body_bytes: int = MAX_BODY_BYTES):
        self._app = app
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
        lengths = _values(headers, b"content-length")
        if len(lengths) > 1 or any(not length.isdecimal() for length in lengths):
            return 400, f"Content-Length {lengths!r}"
        if lengths and int(lengths[0]) > self._limit(scope):
            return 413, f"a body of {lengths[0]} bytes"
        return None

    def _limit(self, scope) -> int:
        return LARGER_BODIES.get(scope["path"], self._max_body_bytes)

    async def _refuse(self, scope, receive, send, status: int) -> None:
        if scope["type"] == "websocket":
            await receive()                                     # websocket.connect; a close before accept is a 403
            return await send({"type": "websocket.close", "code": 1008})
        words = {400: b"Bad request.", 403: b"Forbidden.", 413: b"Too large."}[status]
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(words)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": [*headers, *self._headers]})
        await send({"type": "http.response.body", "body": words})

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
                message = {**message, "headers": [*kept, *self._headers]}
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


def _follows_link_to_start(scope) -> bool:
    """A person clicked a link to us on some page: a whole-tab GET of "/". Nothing else may come from another site."""
    headers = scope["headers"]
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and scope["path"] == "/"
        and _values(headers, b"sec-fetch-mode") == ["navigate"]
        and _values(headers, b"sec-fetch-dest") == ["document"]
    )
