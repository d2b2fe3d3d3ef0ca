"""What is served, and to whom. What stands in no list is closed: a route that a new Gradio brings, too.

The owner sits at this machine. A guest came in over the local network (`ui/lan.py`): watches and makes clips of their own, and has
no history, no exports, no end points for code, nothing that deletes and nothing that stops another's work.
"""

from __future__ import annotations

OWNER, GUEST, ANYONE = "owner", "guest", "anyone"

# What ends with "/" or "=" stands for all that begins so, "/" alone excepted.
_PAGE = ("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/assets/", "/static/", "/svelte/", "/rt/viewer/",
         "/gradio_api/startup-events", "/gradio_api/heartbeat/", "/gradio_api/theme.css")
_MAKING = ("/rt/clip/", "/rt/compare/")
_CODE = ("/mcp", "/gradio_api/info", "/gradio_api/app_id", "/gradio_api/call/", "/gradio_api/queue/data", "/gradio_api/queue/status",
         "/gradio_api/file=")
_SERVED = {
    ANYONE: {"GET": ("/healthz", "/manifest.json")},        # a browser asks for a manifest without cookies
    GUEST: {"WebSocket": ("/rt/ws",), "GET": (*_PAGE, *_MAKING)},
    OWNER: {
        "WebSocket": ("/rt/ws",),
        "GET": (*_PAGE, *_MAKING, *_CODE, "/readyz", "/metrics", "/rt/formats", "/rt/export/", "/rt/history", "/rt/history/", "/rt/picture/", "/rt/presets"),
        "POST": ("/mcp", "/gradio_api/queue/join", "/gradio_api/call/", "/gradio_api/cancel", "/gradio_api/reset",
                 "/rt/export", "/rt/export/estimate", "/rt/recipe", "/rt/picture", "/rt/preset", "/rt/history/"),
        "DELETE": ("/mcp", "/rt/export/", "/rt/history/"),
    },
}


_CLOSED = ("/gradio_api/call/v2/",)         # for pasted snippets, and falls over on names it does not know


def may(role: str, method: str, path: str) -> bool:
    """method: as HTTP has it, HEAD counts as GET; "WebSocket" for one."""
    if path.startswith(_CLOSED):
        return False
    for listed in _SERVED[role].get("GET" if method == "HEAD" else method, ()):
        if path == listed or path == listed + "/" or (listed[-1] in "/=" and listed != "/" and path.startswith(listed)):
            return True
    return False
