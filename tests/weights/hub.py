"""A server on loopback that speaks the hub's protocol."""
import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPO = "someone/some-model"


class Hub(ThreadingHTTPServer):
    """Serves `files` as the hub does: a HEAD with size and digest, a GET that honours Range.

    asked: (method, file, Range) of each request. break_at: bytes after which the next GET loses its connection, once.
    stall_at: bytes after which it says no more. refuse: file -> (status, the hub's X-Error-Code).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}
        self.digests: dict[str, str] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.refuse: dict[str, tuple[int, str]] = {}
        self.break_at = self.stall_at = None
        self.over = threading.Event()


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        hub, name = self.server, self.path.partition(f"/{REPO}/resolve/main/")[2]
        wanted = self.headers.get("Range")
        hub.asked.append((self.command, name, wanted))
        if name in hub.refuse or name not in hub.files:
            status, code = hub.refuse.get(name, (404, "EntryNotFound"))
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = hub.files[name]
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for header, value in (("X-Repo-Commit", "0" * 40), ("X-Linked-Size", len(data)), ("Content-Length", len(data) - start),
                              ("X-Linked-ETag", f'"{hub.digests.get(name, hashlib.sha256(data).hexdigest())}"')):
            self.send_header(header, str(value))
        self.end_headers()
        if body:
            self.send(data, start)

    def send(self, data, start):
        hub, stop = self.server, len(data)
        if hub.break_at is not None:
            stop, hub.break_at = hub.break_at, None
        if hub.stall_at is not None:
            stop = hub.stall_at
        self.wfile.write(data[start:stop])
        self.wfile.flush()
        if hub.stall_at is not None:
            hub.over.wait(60)
        if stop < len(data):
            self.close_connection = True
