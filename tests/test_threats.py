"""What gets past the guard because it comes from the owner's own page, or looks so: changes by reading, paths, markup, search, odd HTTP.
Each attack is also tried on a route or a text that falls for it, where the same check must see it."""

import asyncio
import html
import json
import random
import re
import time
import unicodedata
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from fastapi import FastAPI
from fastapi.responses import FileResponse, HTMLResponse
from served import COOKIE, HOST, JSON, PORT, TOKEN, as_json, ask, ask_all, filled, site, table

from turbo_engine.types import Request
from ui.clips import Clip, Edit
from ui.guard import Guard
from ui.roles import OWNER, may

pytestmark = [pytest.mark.timeout(180), pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]
OWN = [HOST, COOKIE]
CANARY = "canary-5f0c1e"
PAYLOADS = [
    "<script>alert(1)</script>", "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><svg onload=alert(1)>", "'><b onmouseover=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>", "javascript:alert(1)", "<a href=javascript:alert(1)>x</a>", "<body onload=alert(1)>", "<!--<img src=--><x onerror=alert(1)//",
    "${alert(1)}", "{{constructor.constructor('alert(1)')()}}", "`${alert(1)}`", "<math><mtext></table><img src onerror=alert(1)>", "<style>@import'//x'</style>",
    "<base href=//evil.example>", "<meta http-equiv=refresh content=0;url=//evil.example>", "<object data=javascript:alert(1)>", "<form action=//evil.example><button>",
    "<details open ontoggle=alert(1)>", "&lt;script&gt;alert(1)&lt;/script&gt;", "\u2028alert(1)\u2029", "\\u003cscript\\u003e", "%3Cscript%3Ealert(1)%3C/script%3E",
    "<ScRiPt>alert(1)</sCrIpT>", "<script\x0b>alert(1)</script>", "<scr\0ipt>alert(1)</script>", "<<script>alert(1)//<</script>", "\x1b[31mred\x1b[0m", "]]><script>alert(1)</script>",
    "\r\nSet-Cookie: a=b", "\r\n\r\n<script>alert(1)</script>", "\"; filename=evil.html", "a.mp4\"\r\nX-Evil: 1", "../../evil.html", "<link rel=stylesheet href=//evil.example>",
    "<video><source onerror=alert(1)>", "<input autofocus onfocus=alert(1)>", "<marquee onstart=alert(1)>", "<x style=animation-name:x onanimationstart=alert(1)>",
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A history of hostile prompts and the app around it."""
    with site(tmp_path_factory.mktemp("data")) as made:
        made.engine.load()
        for seed, payload in enumerate(PAYLOADS):
            *_, result = made.engine.generate(Request(f"a robot {payload}", seed, num_steps=1))
            clip = Clip(Edit(1, f"a robot {payload}", seed), result, [], 0.0)
            made.desk.clips.add(clip)
            if seed % 4 == 0 or "\0" in payload:
                made.store.add(result, clip_id=clip.id)
        made.guarded = Guard(made.app, PORT, TOKEN)
        yield made


def ids(desk) -> list[str]:
    return [entry.id for entry in desk.store.list(limit=100)]


# -- T4: reading changes nothing ---------------------------------------------------------------------------------------

def gets(app) -> list[str]:
    """Of what the owner may ask: a stream that never ends takes its two seconds for nothing here."""
    endless = ("/gradio_api/heartbeat/", "/gradio_api/queue/data", "/gradio_api/startup-events")
    return sorted({path for path, method, kind in table(app) if kind == "http" and method in ("GET", "HEAD") and may(OWNER, method, filled(path))
                   and not path.startswith(endless)})


def changed_by_reading(desk, app, paths, count: int) -> bool:
    chance, known, before = random.Random(4), ids(desk), desk.state()
    words = ["delete", "on", "id", "q", "starred", "before", "__theme", "view", "session_hash", "fn_index", "op", "cancel", "limit", "logs", "deep_link"]
    for _ in range(count):
        path = filled(chance.choice(paths), chance.choice([*known, "x", "1"]))
        query = urlencode({chance.choice(words): chance.choice(["1", "true", "x", chance.choice(known)]) for _ in range(3)})
        ask(app, path, chance.choice(("GET", "HEAD")), OWN, query=query)
    return desk.state() != before


def test_reading_changes_nothing(desk):
    assert not changed_by_reading(desk, desk.guarded, gets(desk.app), 200)


def test_a_route_that_deletes_when_read_is_seen(desk):
    """The control."""
    bad = FastAPI()

    @bad.get("/rt/history/{clip_id}")
    def gone(clip_id: str):
        desk.store.star(ids(desk)[0], True)
    assert changed_by_reading(desk, bad, ["/rt/history/{clip_id}"], 3)


# -- T7: names are no paths --------------------------------------------------------------------------------------------

def spellings(target: Path) -> list[str]:
    """Ways to say a file outside, 60 and more."""
    up, rest = "../" * 12, str(target).lstrip("/")
    plain = [str(target), up + rest, f"./{up}{rest}", f"x/{up}{rest}", "....//" * 12 + rest, "..;/" * 12 + rest, "/" + str(target), f"//{target}", f"file://{target}",
             f"file:{target}", f"~root/{up}{rest}", f"{target}/", f"{target}/.", f"{target}\0.mp4", f"{target}%00.mp4", f"{up}{rest}::$DATA", f"{up}{rest}.", f"{up}{rest} ",
             "\\..\\" * 12 + rest.replace("/", "\\"), f"C:\\{rest}", f"\\\\localhost\\c$\\{rest}", f"//localhost{target}", "/proc/self/environ", "/proc/self/root" + str(target),
             f"/proc/self/cwd/{up}{rest}", "CON", "NUL.mp4", "LPT1", "aux.jpg", str(target).upper(), str(target).swapcase(), "/dev/fd/0", "/dev/stdin", up + "proc/self/cmdline"]
    coded = [quote(text, safe="") for text in plain[:8]] + [quote(quote(text, safe=""), safe="") for text in plain[:8]]
    odd = [(up + rest).replace("/", "%c0%af"), (up + rest).replace(".", "%c0%ae"), (up + rest).replace("../", "%2e%2e/"), (up + rest).replace("../", "..%2f"),
           (up + rest).replace("../", ".%2e/"), (up + rest).replace("../", "..\\"), (up + rest).replace("../", "..%5c"), (up + rest).replace("/", "\u2215"), (up + rest).replace("/", "\uff0f"),
           (up + rest).replace(".", "\uff0e"), (up + rest).replace("../", "..//"), (up + rest).replace("../", "..././"), unicodedata.normalize("NFKD", up + rest), (up + rest) + "?x", (up + rest) + "#x"]
    return plain + coded + odd


@pytest.fixture(scope="module")
def secrets(tmp_path_factory, desk):
    """A file outside the data folder, and links to it inside."""
    target = tmp_path_factory.mktemp("outside") / "secret.txt"
    target.write_text(CANARY)
    (desk.folder / "clips" / "linked.mp4").symlink_to(target)
    (desk.folder / "clips" / "AAAAAAAAAAAAAAAA.mp4").hardlink_to(target)
    (desk.folder / "gradio").mkdir(exist_ok=True)
    yield target
    (desk.folder / "clips" / "linked.mp4").unlink()
    (desk.folder / "clips" / "AAAAAAAAAAAAAAAA.mp4").unlink()


def leaks(app, routes, target) -> list:
    """What shows the canary, and what answers with anything but a refusal in 500 or more."""
    found = []
    names = [*spellings(target), "linked", "AAAAAAAAAAAAAAAA", "linked.mp4"]
    for path, method, _ in routes:
        bodies = [b""] if method in ("GET", "HEAD") else [b"{}", as_json({"a": names[1], "format": names[0], "key": names[2], "data": names[:3], "fn_index": 0})]
        requests = [{"path": filled(path, name), "method": method, "headers": [*OWN, JSON], "body": body} for name in names for body in bodies]
        for request, (status, headers, body) in zip(requests, ask_all(app, requests)):
            if CANARY in body.decode("latin-1") or CANARY in str(headers) or b"PATH=" in body or status >= 500:
                found.append((method, request["path"], status, body[:80]))
    return found


def test_no_spelling_of_a_path_opens_deletes_or_renames_anything_outside(desk, secrets):
    assert len(spellings(secrets)) >= 60
    routes = [(path, method, kind) for path, method, kind in table(desk.app) if "{" in path and kind == "http" and may(OWNER, method, filled(path))
              and not path.startswith("/gradio_api/heartbeat/")]
    assert len(routes) >= 15 and any(path.startswith("/gradio_api/file=") for path, _, _ in routes)
    before = secrets.stat()
    assert leaks(desk.guarded, routes, secrets) == []
    after = secrets.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_nlink) == (before.st_mtime_ns, before.st_size, before.st_nlink) and list(secrets.parent.iterdir()) == [secrets]


def test_a_route_that_joins_paths_is_seen(desk, secrets):
    """The control."""
    bad = FastAPI()

    @bad.get("/clip/{name:path}")
    def clip(name: str):
        path = desk.folder / "clips" / name.partition("\0")[0]
        return FileResponse(path) if path.is_file() and path.stat().st_size < 4000 else HTMLResponse("", 404)
    assert len(leaks(bad, [("/clip/{name:path}", "GET", "http")], secrets)) > 3


# -- T10: text stays text ----------------------------------------------------------------------------------------------

def unescaped(replies) -> list:
    """Markup of a payload in what a browser could take for a document, or in a header."""
    found = []
    for _, headers, body in replies:
        kind, text = dict(headers).get("content-type", ""), body.decode("utf-8", "replace")
        document = not kind.startswith(("application/json", "image/", "video/", "text/plain", "application/octet-stream")) or dict(headers).get("x-content-type-options") != "nosniff"
        found += [(payload, kind) for payload in PAYLOADS if document and payload in text and payload != html.escape(payload)]
        found += [(name, value) for name, value in headers if "\r" in value or "\n" in value or "<" in value or "evil.html" in value
                  or name.lower() == "x-evil" or value == "a=b"]
    return found


def test_code_in_prompts_never_comes_back_as_code(desk):
    clips = [clip.id for clip in desk.desk.clips._by_id.values()]
    requests = [("/", "GET", OWN), ("/config", "GET", OWN), ("/rt/history", "GET", OWN)]
    requests += [(f"/rt/clip/{clip}.mp4", "GET", OWN) for clip in clips] + [(f"/rt/history/{clip}.jpg", "GET", OWN) for clip in ids(desk)]
    requests += [("/rt/recipe", "POST", [*OWN, ("x-file-name", quote(payload))], b"x") for payload in PAYLOADS]
    requests += [("/rt/export", "POST", [*OWN, JSON], as_json({"a": payload, "format": payload})) for payload in PAYLOADS]
    requests += [("/mcp", "POST", [*OWN, JSON], as_json({"jsonrpc": "2.0", "id": payload, "method": payload})) for payload in PAYLOADS]
    requests += [(f"/{payload}", "GET", OWN) for payload in PAYLOADS] + [(f"/rt/clip/{payload}.mp4", "GET", OWN) for payload in PAYLOADS]
    replies = ask_all(desk.guarded, requests)
    assert len(PAYLOADS) >= 40 and unescaped(replies) == []
    listed = [entry["prompt"] for entry in json.loads(replies[2][2])["entries"]]
    assert any("<script>" in prompt for prompt in listed)                   # it is there, as text
    names = [dict(headers)["content-disposition"] for (path, *_), (_, headers, _) in zip(requests, replies) if path.startswith("/rt/clip/") and path[9:-4] in clips]
    assert len(names) == len(PAYLOADS) and all(re.fullmatch(r'attachment; filename="[a-z0-9-]+\.mp4"', name) for name in names)


def test_a_page_that_puts_a_prompt_into_html_is_seen(desk):
    """The control."""
    bad = FastAPI()

    @bad.get("/x")
    def page(q: str):
        return HTMLResponse(f"<p>{q}</p>")
    assert unescaped([ask(bad, "/x", query=urlencode({"q": PAYLOADS[0]}))])


# -- T16: search -------------------------------------------------------------------------------------------------------

def test_hostile_words_are_words(desk):
    """500 of them by the route, and 2,000 of random Unicode."""
    chance = random.Random(16)
    parts = ["'", '"', ";", "--", "/*", "*/", "%", "_", "\\", "OR 1=1", "UNION SELECT", "DROP TABLE clips", "NEAR(", "*", "(", ")", "\0", "\ud800", "x'41'", "||", "{", "}", "[", "]", "^", "a" * 300]
    hostile = ["".join(chance.choices(parts, k=chance.randrange(1, 8))) for _ in range(500)]
    unicode = ["".join(chr(chance.choice((chance.randrange(32, 127), chance.randrange(0xA0, 0xD7FF), chance.randrange(0x10000, 0x10FFFF)))) for _ in range(chance.randrange(1, 20)))
               for _ in range(2000)]
    requests = [{"path": "/rt/history", "headers": OWN, "query": "q=" + quote(text.encode("utf-8", "surrogatepass"))} for text in hostile + unicode]
    replies = ask_all(desk.guarded, requests)
    assert {status for status, _, _ in replies} == {200}
    assert sum(len(json.loads(body)["entries"]) for _, _, body in replies) < 3000 and len(ids(desk)) >= 10
    for text in unicode[:40]:                                                # exactly as it went in
        *_, result = desk.engine.generate(Request(text if text.split() else "x", 1, num_steps=1))
        entry = desk.store.add(result)
        assert desk.store.get(entry.id).prompt == result.recipe["prompt"]
        desk.store.delete(entry.id)


# -- T15: odd HTTP -----------------------------------------------------------------------------------------------------

def oddities(clip_id: str) -> list[tuple]:
    deep, long = b"[" * 10_000 + b"]" * 10_000, b'{"prompt": "' + b"a" * 10_000_000 + b'"}'
    posts = ["/rt/export", "/rt/export/estimate", "/rt/history/x/star", "/mcp", "/gradio_api/queue/join", "/gradio_api/call/preview", "/gradio_api/cancel", "/rt/recipe"]
    bodies = [deep, b'{"a":' * 5000 + b"1" + b"}" * 5000, long, b"\xff\xfe{}", b"", b"null", b"[]", b'"x"', b"1e999", b"NaN", b'{"a": NaN}', b"{" * 50, b'{"a": "\\ud800"}', b'{"a": 1' + b"0" * 5000 + b"}"]
    found = [(path, "POST", [*OWN, JSON], body) for path in posts for body in bodies]
    ranges = ["bytes=" + ",".join(f"{n}-{n}" for n in range(2000)), "bytes=-", "bytes=0-0,1-1", "bytes=9-1", "bytes=99999999999999999999-", "bytes=-99999999999", "lines=1-2", "bytes=a-b", "bytes=0-" * 50]
    found += [(path, "GET", [*OWN, ("range", value)]) for path in (f"/rt/clip/{clip_id}.mp4", "/rt/viewer/desk.js", "/manifest.json", "/theme.css") for value in ranges]
    found += [("/rt/history", "GET", [*OWN, ("cookie", "a=" + "b" * 60_000), ("x-" + "y" * 200, "z")])]
    return found


@pytest.mark.clock
def test_odd_requests_are_refused_or_served_and_never_break_anything(desk):
    """Ranges by the thousand, JSON ten thousand deep, ten million letters, broken UTF-8: no 5xx, and nobody else waits for it."""
    clip_id = next(iter(desk.desk.clips._by_id))
    requests, slowest = oddities(clip_id), 0.0
    replies = []
    for request in requests:
        start = time.monotonic()
        try:
            replies.append(ask(desk.guarded, *request))
        except Exception as error:
            raise AssertionError(f"{request[:2]} {request[3:] and request[3][:40]}: {error!r}") from error
        slowest = max(slowest, time.monotonic() - start)
    broken = [(request[:2], request[3:] and request[3][:40], status) for request, (status, _, _) in zip(requests, replies) if status >= 500]
    assert broken == [] and slowest < 10


@pytest.mark.clock
def test_a_stranger_can_neither_connect_from_elsewhere_nor_hold_the_loop(desk):
    """The event loop goes on while the worst of them are answered."""
    clip_id = next(iter(desk.desk.clips._by_id))

    async def talk() -> float:
        from served import asking
        longest, done = 0.0, asyncio.Event()

        async def tick():
            nonlocal longest
            while not done.is_set():
                start = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - start)
        ticking = asyncio.create_task(tick())
        for request in oddities(clip_id):
            await asking(desk.guarded, *request)
        done.set()
        await ticking
        return longest
    assert asyncio.run(talk()) < 2                  # 0.1 s is the aim on a machine of one's own; this one is shared
