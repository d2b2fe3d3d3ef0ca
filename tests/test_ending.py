"""Ctrl-C and SIGTERM on the real app as a process, at any moment: it ends in ten seconds, leaves nothing behind and says nothing."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from turbo_engine.store import Store

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 10.0
pytestmark = [pytest.mark.timeout(240), pytest.mark.clock]


class Process:
    """The app, its children, and what it left."""

    def __init__(self, folder: Path, *command: str):
        self.folder = folder
        self._process = subprocess.Popen([sys.executable, *command], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                         env={**os.environ, "PYTHONUNBUFFERED": "1"})
        self.lines: list[str] = []

    def read_until(self, text: str) -> str:
        while True:
            line = self._process.stdout.readline()
            assert line, "it ended:\n" + "".join(self.lines)
            self.lines.append(line)
            if text in line:
                return line

    def children(self) -> set[int]:
        listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(self._process.pid)], capture_output=True, text=True).stdout
        return {int(pid) for pid in listed.split()}

    def end(self, *signals: int) -> tuple[int, float]:
        """(exit code, seconds it took); all it started has ended and the rest of what it said is in `lines`."""
        children, start = self.children(), time.monotonic()
        for number in signals:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
            time.sleep(0.05)
        code = self._process.wait(60)
        took = time.monotonic() - start
        self.lines += self._process.stdout.readlines()
        self._process.stdout.close()
        for pid in children:
            while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]:
                assert time.monotonic() - start < took + 5, "a child lives on"
                time.sleep(0.02)
        return code, took


def crowd() -> float:
    """How many times slower this machine is for the others who compute on it; 1 on one's own."""
    return max(1.0, os.getloadavg()[0] / os.cpu_count())


def front_door(folder: Path) -> Process:
    """The real app with the real engine."""
    return Process(folder, "app.py", "--port", "0", "--no-browser", "--data-dir", str(folder))


def stand_in(folder: Path) -> Process:
    return Process(folder, "-m", "tests.browser.fake_app", "0", str(folder))


def check_end(process: Process, *signals: int, codes=(0,)) -> None:
    code, took = process.end(*signals)
    said = [line for line in process.lines if not line.startswith(("Rushes is at", "The token for code"))]
    assert code in codes and said == [] and took < LIMIT_S * crowd(), (code, took, said)
    assert not (process.folder / "token").exists()
    with Store(process.folder) as store:                    # and nobody holds it any more
        assert store.notes == [] or "listed" in store.notes[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_the_real_engine_loads(tmp_path, number):
    process = front_door(tmp_path)
    process.read_until("token for code")
    assert process.children()                               # an engine is on its way
    check_end(process, number)


@pytest.mark.parametrize("draw", range(4))
def test_at_any_moment_of_the_start(tmp_path, draw):
    """Imports, opening the history, building the page. Before there is anything to end it may say so by its code."""
    process = front_door(tmp_path)
    time.sleep(random.Random(draw).uniform(0.5, 6))
    check_end(process, (signal.SIGINT, signal.SIGTERM)[draw % 2], codes=(0, 130))


def test_in_the_middle_of_work_with_a_page_open_and_an_export_running(tmp_path):
    import httpx
    from websockets.sync.client import connect
    process = front_door(tmp_path)
    url = process.read_until("Rushes is at").split()[3]
    token = Path(process.read_until("token for code").removeprefix("The token for code is in ").strip()).read_text()
    port = int(url.rsplit(":", 1)[1].strip("/"))
    headers = {"Authorization": f"Bearer {token}"}
    with connect(f"ws://127.0.0.1:{port}/rt/ws", additional_headers=headers, open_timeout=60) as page, httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        page.send('{"op": "edit", "generation": 1, "prompt": "a robot spinning", "seed": 1, "num_steps": 1}')
        clip = None
        while clip is None:
            said = page.recv(120)
            if isinstance(said, str) and '"type": "clip"' in said and '"id"' in said:

                clip = json.loads(said)["id"]
        page.send('{"op": "final", "generation": 2, "prompt": "a robot spinning", "seed": 1, "num_steps": 50}')
        http.post("/rt/export", json={"a": clip, "format": "gif", "scale": 4}).raise_for_status()
        page.send('{"op": "edit", "generation": 3, "prompt": "a fox", "seed": 1}')
        check_end(process, signal.SIGTERM)
    with Store(tmp_path) as store:
        assert [entry.prompt for entry in store.list()][-1] == "a robot spinning"
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(("127.0.0.1", port))


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_once_or_twice_when_it_is_ready(tmp_path, signals):
    """A second signal ends it at once, with a code of its own if there was anything left to do."""
    process = stand_in(tmp_path)
    process.read_until("token for code")
    time.sleep(0.5)
    check_end(process, *signals, codes=(0, 128 + signal.SIGINT, 128 + signal.SIGTERM))


def test_an_end_that_takes_too_long_is_cut_off_and_shown(tmp_path):
    """The control: an engine whose close never returns."""
    script = ("import sys, time, app\nfrom pathlib import Path\nfrom turbo_engine.fake import FakeEngine\nfrom turbo_engine.presets import load_preset\nimport ui.ending\n"
              "ui.ending.LIMIT_S = 1.0\n"
              "class Stuck(FakeEngine):\n    def close(self): time.sleep(3600)\n"
              f"sys.exit(app.serve(lambda preset, folder: Stuck('pocket'), load_preset('pocket'), port=0, data_dir=Path({str(tmp_path)!r}), open_browser=False))")
    process = Process(tmp_path, "-c", script)
    process.read_until("token for code")
    time.sleep(0.5)
    code, took = process.end(signal.SIGTERM)
    assert code == 1 and took < 5 * crowd() and any("Timeout" in line for line in process.lines) and any("in stop" in line for line in process.lines)
