"""The app as a child process, and Debian's Chromium to look at it with. Whatever a test does, the page must ask nothing of any other
server and leave no error in the console."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = "/usr/bin/chromium"
ARGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]
POCKET_SHIPPED = (ROOT / "presets" / "pocket" / "student.safetensors").exists()


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.timeout(400))
            if not Path(CHROMIUM).exists():
                item.add_marker(pytest.mark.skip(reason=f"{CHROMIUM} is not installed: apt-get install chromium"))


class App:
    """A running app: its address, what it printed, and a clean end."""

    def __init__(self, *command: str):
        self._process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        self.lines: list[str] = []
        self.url = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        deadline = time.monotonic() + 90
        while not self.url and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        if not self.url:
            self.stop()
            raise AssertionError("the app did not start:\n" + "".join(self.lines))

    def _read(self):
        for line in self._process.stdout:
            self.lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                self.url = found[0]

    def stop(self, sig: int = signal.SIGINT) -> int:
        """Ctrl-C. Returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(sig)
        try:
            code = self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        return code


@pytest.fixture(scope="package")
def fake_app(tmp_path_factory):
    app = App("-m", "tests.browser.fake_app", "0", str(tmp_path_factory.mktemp("fake-data")))
    yield app
    assert app.stop() == 0, "".join(app.lines)


@pytest.fixture(scope="package")
def real_app(tmp_path_factory):
    """The front door and the real engine: on the shipped weights, or on tiny random ones where none are shipped."""
    preset = "pocket"
    if not POCKET_SHIPPED:
        from tests.conftest import write_preset
        preset = str(write_preset(tmp_path_factory.mktemp("presets")))
    app = App("app.py", "--preset", preset, "--port", "0", "--no-browser", "--data-dir", str(tmp_path_factory.mktemp("data")))
    yield app
    assert app.stop() == 0, "".join(app.lines)
    assert len(app.lines) == 2, "expected the address and the token's place, got:\n" + "".join(app.lines)


@pytest.fixture(params=["fake", "real"])
def url(request) -> str:
    """The same test on the stand-in and on the real engine."""
    return request.getfixturevalue(f"{request.param}_app").url


@pytest.fixture(scope="package")
def chromium():
    from playwright.sync_api import sync_playwright
    # Package scope: Playwright's loop must end before other tests run loops of their own.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture
def context(chromium, tmp_path):
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    context.set_default_timeout(90_000)         # a clip takes a second, on a machine with other work half a minute
    yield context
    context.close()


@pytest.fixture
def page(context):
    page = context.new_page()
    strays, complaints = [], []
    page.on("request", lambda request: strays.append(request.url) if not _is_ours(request.url) else None)
    page.on("websocket", lambda socket: strays.append(socket.url) if not _is_ours(socket.url) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("response", lambda reply: complaints.append(f"{reply.status} {reply.url}") if reply.status >= 400 else None)
    yield page
    assert strays == [] and complaints == []


def _is_ours(url: str) -> bool:
    return re.match(r"(data:|blob:|about:|(http|ws)://127\.0\.0\.1:\d+/)", url) is not None
