"""One full session of the real app: it opens no connection to anywhere else, and what it says and writes names nobody's words."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.timeout(300)
# Runs in every Python process of the app, before anything else.
LISTEN = """
import os, sys
def heard(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        target = args[1] if event in ("socket.connect", "socket.sendto") else args[0]
        with open(os.environ["HEARD"], "a") as file:
            file.write(f"{event} {target!r}\\n")
sys.addaudithook(heard)
with open(os.environ["HEARD"], "a") as file:
    file.write("listening\\n")
"""
LOCAL = re.compile(r"socket\.\w+ (\('(127\.\d+\.\d+\.\d+|::1|localhost)'|'(127\.0\.0\.1|localhost|::1|0\.0\.0\.0)'|None|b?'/)")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Everything a person does, once, with a marked prompt: (what the app printed, its data folder, what was connected to, replies)."""
    folder, hooks = tmp_path_factory.mktemp("marked-folder-4711"), tmp_path_factory.mktemp("hooks")
    (hooks / "sitecustomize.py").write_text(LISTEN)
    heard = hooks / "heard"
    heard.touch()
    child = subprocess.Popen([sys.executable, "app.py", "--port", "0", "--no-browser", "--data-dir", str(folder)], cwd=ROOT, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                             env={**os.environ, "PYTHONPATH": str(hooks), "HEARD": str(heard), "PYTHONUNBUFFERED": "1"})
    lines, replies = [child.stdout.readline(), child.stdout.readline()], []
    url, token = lines[0].split()[3], (folder / "token").read_text()
    try:
        headers = {"Authorization": f"Bearer {token}"}
        with connect(url.replace("http", "ws") + "rt/ws", additional_headers=headers, max_size=None) as page, httpx.Client(base_url=url, headers=headers, timeout=120) as http:
            page.send(json.dumps({"op": "edit", "generation": 1, "prompt": "a walrus4711 at http://evil.example/x.png", "seed": 7, "num_steps": 1}))
            clip = None
            while clip is None:
                said = page.recv(200)
                if isinstance(said, str) and (message := json.loads(said))["type"] == "clip" and "id" in message:
                    clip = message["id"]
            page.send(json.dumps({"op": "edit", "generation": 2, "prompt": "x" * 5000, "seed": 7}))       # refused
            job = http.post("/rt/export", json={"a": clip, "format": "gif", "scale": 0.25}).json()["job"]
            while http.get(f"/rt/export/{job}").json()["state"] == "running":
                time.sleep(0.1)
            http.post("/rt/recipe", content=http.get(f"/rt/export/{job}/file").content)
            deadline = time.monotonic() + 60
            while not http.get("/rt/history").json()["entries"] and time.monotonic() < deadline:
                time.sleep(0.2)
            for path in ("/", "/config", "/metrics", "/readyz", "/rt/formats", "/no-such-place", "/rt/clip/x.mp4", "/rt/history/x.jpg", "/gradio_api/file=/etc/hostname",
                         "/gradio_api/info", "/rt/viewer/none.js"):
                replies.append(http.get(path).text)
            for path in ("/", "/rt/formats", "/metrics"):
                replies.append(httpx.get(url + path[1:], headers={"Authorization": f"Bearer {token}x"}).text)
    finally:
        child.terminate()
        code = child.wait(60)
        lines += child.stdout.readlines()
        child.stdout.close()
    assert code == 0
    return lines, folder, heard.read_text().splitlines(), replies, token


def test_nothing_is_asked_of_any_other_machine(session):
    """T8. By an audit hook in the app's process and in the engine's."""
    _, _, heard, _, _ = session
    assert heard.count("listening") >= 2 and [line for line in heard if line != "listening" and not LOCAL.match(line)] == []


@pytest.mark.parametrize("code, stranger", [("socket.create_connection(('192.0.2.1', 9), 0.01)", True), ("socket.getaddrinfo('evil.example', 80)", True),
                                            ("socket.create_connection(('127.0.0.1', 9), 0.01)", False)])
def test_the_hook_hears(tmp_path, code, stranger):
    """The control."""
    (tmp_path / "sitecustomize.py").write_text(LISTEN)
    (tmp_path / "heard").touch()
    subprocess.run([sys.executable, "-c", f"import socket\ntry: {code}\nexcept OSError: pass"], env={**os.environ, "PYTHONPATH": str(tmp_path), "HEARD": str(tmp_path / "heard")})
    first, *lines = (tmp_path / "heard").read_text().splitlines()
    assert first == "listening" and lines and bool([line for line in lines if not LOCAL.match(line)]) is stranger


def test_neither_words_nor_token_nor_places_are_in_what_is_said_or_logged(session):
    """T17. The start's own two lines name the token's place, and the history holds the prompts: nothing else does."""
    lines, folder, _, replies, token = session
    logs = [path.read_text() for path in (folder / "logs").iterdir()]
    assert any('"outcome": "done"' in text for text in logs)
    told = "".join(lines[2:]) + "".join(logs) + "".join(path.read_text() for path in (folder / "crashes").glob("*"))
    for secret in ("walrus4711", token, str(folder), "xxxxxxxx"):
        assert secret not in told, secret
    for secret in (token, str(folder), str(ROOT)):
        assert not [reply[:200] for reply in replies if secret in reply], secret
