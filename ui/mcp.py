"""The end points as MCP tools: JSON-RPC over streamable HTTP at /mcp, stateless, as revision 2025-11-25 has it.

Written out here and not Gradio's own server: that one asks the app for each tool over HTTP again, without the token that
the guard wants, tells progress in sentences without a total, and brings 14 packages. The calls come straight to the same
methods that gradio_client reaches, and a clip's middle frame comes along as a picture.
Source: modelcontextprotocol.io/specification/2025-11-25, "Transports", "Tools", "Progress".
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import get_args, get_type_hints

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from turbo_engine.errors import TurboError

log = logging.getLogger("rushes.mcp")

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")      # newest first; nothing used here differs among them
INSTRUCTIONS = ("Rushes makes two-second video clips from prompts on this machine. preview takes seconds, render_full makes the same "
                "shot of the same seed in full. Every clip has a clip_id for export and details, and is in the history.")
KEEP_ALIVE_S = 10.0
PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


class Tool:
    """A function as a tool: its schema is read from its types, its texts from its docstring.

    at_once: calls that run; more of them wait.
    """

    def __init__(self, call: Callable, at_once: int):
        self.call, self.name = call, call.__name__
        self.limit = anyio.CapacityLimiter(at_once)
        parameters = inspect.signature(call).parameters.values()
        self.wants_progress = any(p.name == "progress" for p in parameters)
        self._parameters = [p for p in parameters if p.name != "progress"]

    def describe(self) -> dict:
        hints, (summary, texts) = get_type_hints(self.call), _docstring(self.call)
        properties = {}
        for p in self._parameters:
            kind = next(kind for kind in (*get_args(hints[p.name]), hints[p.name]) if kind in _JSON_TYPES)
            properties[p.name] = {"type": _JSON_TYPES[kind], "description": texts.get(p.name, "")}
            if p.default is not p.empty and p.default is not None:
                properties[p.name]["default"] = p.default
        required = [p.name for p in self._parameters if p.default is p.empty]
        return {"name": self.name, "description": summary,
                "inputSchema": {"type": "object", "properties": properties, "required": required, "additionalProperties": False}}

    def check(self, arguments) -> None:
        """Raises: TurboError for arguments of other names; what their values may be is the function's to say."""
        known = [p.name for p in self._parameters]
        if not isinstance(arguments, dict):
            raise TurboError(f"arguments: expected an object with {', '.join(known) or 'nothing in it'}")
        for name in arguments:
            if name not in known:
                raise TurboError(f"arguments: expected {', '.join(known) or 'none'}, got {name[:40]!r}; leave it out")
        for p in self._parameters:
            if p.default is p.empty and p.name not in arguments:
                raise TurboError(f"{p.name}: expected it among the arguments, found none; name it")


def add_mcp_route(app: FastAPI, tools: list[Tool], picture: Callable[[str], bytes | None]) -> None:
    """picture(clip_id): the JPEG that goes with a result, or None."""
    by_name = {tool.name: tool for tool in tools}
    listed = [tool.describe() for tool in tools]

    @app.api_route("/mcp", methods=["GET", "DELETE"], include_in_schema=False)
    def no_session() -> Response:               # no stream to listen to, no session to end
        return Response(status_code=405, headers={"Allow": "POST"})

    @app.post("/mcp", include_in_schema=False)
    async def message(request: Request) -> Response:
        try:
            asked = json.loads(await request.body())
        except (ValueError, RecursionError):
            return _refusal(None, PARSE_ERROR, "expected one JSON-RPC message")
        if not isinstance(asked, dict) or asked.get("jsonrpc") != "2.0":
            return _refusal(None, INVALID_REQUEST, "expected one JSON-RPC 2.0 message; batches are not taken")
        if asked.get("id") is None or "method" not in asked:
            return Response(status_code=202)    # a notification, or an answer to what was never asked
        number, params = asked["id"], asked.get("params") or {}
        if not isinstance(params, dict):
            return _refusal(number, INVALID_PARAMS, "params: expected an object")
        match asked["method"]:
            case "initialize":
                wanted = params.get("protocolVersion")
                return _answer(number, {
                    "protocolVersion": wanted if wanted in VERSIONS else VERSIONS[0], "capabilities": {"tools": {}},
                    "serverInfo": {"name": "rushes", "title": "Rushes", "version": "1"}, "instructions": INSTRUCTIONS})
            case "ping":
                return _answer(number, {})
            case "tools/list":
                return _answer(number, {"tools": listed})
            case "tools/call":
                tool = by_name.get(str(params.get("name")))
                if tool is None:
                    return _refusal(number, INVALID_PARAMS, f"name: expected one of {', '.join(by_name)}, got {str(params.get('name'))[:40]!r}")
                return StreamingResponse(_call(tool, number, params, picture), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        return _refusal(number, METHOD_NOT_FOUND, f"method: expected one of this server's, got {str(asked['method'])[:40]!r}")


async def _call(tool: Tool, number, params: dict, picture) -> AsyncIterator[str]:
    """The events of one call: progress where it was asked for, and the result at the end."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue()
    token = (params.get("_meta") or {}).get("progressToken") if isinstance(params.get("_meta") or {}, dict) else None
    arguments = params.get("arguments") or {}

    def progress(share: tuple[int, int], desc: str) -> None:
        if token is not None:
            note = {"progressToken": token, "progress": share[0], "total": share[1], "message": desc}
            loop.call_soon_threadsafe(events.put_nowait, {"jsonrpc": "2.0", "method": "notifications/progress", "params": note})

    def work() -> dict:
        try:
            tool.check(arguments)
            return _content(tool.call(**arguments, **({"progress": progress} if tool.wants_progress else {})), picture)
        except TurboError as error:
            return _failure(str(error))
        except Exception as error:
            log.exception("a tool failed")
            return _failure(f"{tool.name} stumbled on this one ({type(error).__name__}); the terminal has the details.")

    async def run() -> None:
        result = await anyio.to_thread.run_sync(work, limiter=tool.limit)
        events.put_nowait({"jsonrpc": "2.0", "id": number, "result": result})

    running = asyncio.create_task(run())        # goes on without a listener, as a render does when its page is closed
    _running.add(running)
    running.add_done_callback(_running.discard)
    while True:
        try:
            event = await asyncio.wait_for(events.get(), KEEP_ALIVE_S)
        except TimeoutError:
            yield ": still at it\n\n"
            continue
        yield f"event: message\ndata: {json.dumps(event)}\n\n"
        if "result" in event:
            return


_running: set[asyncio.Task] = set()             # the loop itself holds tasks weakly


def _content(made, picture) -> dict:
    """What a function returned, as a tool's result: facts as JSON, a file as a link to it, its clip's middle frame to look at."""
    file, facts = made if isinstance(made, tuple) else (None, made)
    content = [{"type": "text", "text": json.dumps(facts, ensure_ascii=False)}]
    if file is not None:
        content.append({"type": "resource_link", "uri": Path(file.path).as_uri(), "name": file.orig_name, "mimeType": file.mime_type, "size": file.size})
        if jpeg := picture(facts["clip_id"]):
            content.append({"type": "image", "data": base64.b64encode(jpeg).decode(), "mimeType": "image/jpeg"})
    return {"content": content, "isError": False}


def _failure(line: str) -> dict:
    return {"content": [{"type": "text", "text": line}], "isError": True}


def _answer(number, result: dict) -> JSONResponse:
    return JSONResponse({"jsonrpc": "2.0", "id": number, "result": result})


def _refusal(number, code: int, line: str) -> JSONResponse:
    status = 400 if number is None else 200
    return JSONResponse({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": line}}, status)


def _docstring(call: Callable) -> tuple[str, dict[str, str]]:
    """(all but the arguments on one line, text by argument)."""
    head, _, rest = inspect.getdoc(call).partition("\nArgs:\n")
    arguments, _, returns = (rest or head).partition("\nReturns:")
    head = head if rest else arguments
    texts = dict(line.strip().split(": ", 1) for line in arguments.splitlines() if ": " in line) if rest else {}
    return " ".join(f"{head} Returns:{returns}".split()), texts
