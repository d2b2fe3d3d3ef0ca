"""Five tabs at the real app, with pocket, for as long as --minutes says: nothing grows and nothing is lost."""

import contextlib
import json
import os
import random
import re
import threading
import time
from pathlib import Path

import httpx
import numpy as np
from websockets.sync.client import connect

from tests.browser.conftest import App

WORDS = ("penguin", "robot", "rocket", "octopus", "snowman", "ship", "cactus", "dragon"), ("on a beach", "in space", "in a forest", "underwater", "in a city at night")
SETTLE = 0.2            # the first share of the time, in which memory is still being filled


def measure(pid: int) -> dict[str, int]:
    """Of a process and its children: resident KiB, open files, threads. Those that end meanwhile are not counted."""
    pids, found = {pid}, {"rss_kib": 0, "fds": 0, "threads": 0}
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            pids |= set(map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split()))
    for one in pids:
        with contextlib.suppress(OSError, TypeError):                # TypeError: it ended, and holds no memory any more
            status, fds = Path(f"/proc/{one}/status").read_text(), len(os.listdir(f"/proc/{one}/fd"))
            rss, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))
            found = {"rss_kib": found["rss_kib"] + rss, "fds": found["fds"] + fds, "threads": found["threads"] + threads}
    return found


class Tab(threading.Thread):
    """Types, renders in full, saves, exports, closes and comes back, as chance has it."""

    def __init__(self, number: int, url: str, headers: dict, until: float):
        super().__init__(daemon=True)
        self.number, self.url, self.headers, self.until = number, url, headers, until
        self.clips, self.errors, self.trouble, self.saved = 0, [], None, 0

    def run(self):
        try:
            while time.monotonic() < self.until:
                self._sit()
        except Exception as error:
            self.trouble = error

    def _sit(self):
        chance, generation, newest = random.Random(time.monotonic_ns()), 0, 0
        with connect(f"{self.url.replace('http', 'ws')}rt/ws?page=soak-tab-{self.number}", additional_headers=self.headers, max_size=None) as page, \
                httpx.Client(base_url=self.url, headers=self.headers, timeout=120) as http:
            for _ in range(chance.randrange(5, 40)):
                if time.monotonic() > self.until:
                    return
                for _ in range(chance.choice((1, 1, 4))):           # a burst of edits now and then
                    generation += 1
                    words = " ".join(map(chance.choice, WORDS))
                    page.send(json.dumps({"op": "edit", "generation": generation, "prompt": f"a {words}", "seed": chance.randrange(1000)}))
                if chance.random() < 0.03:
                    generation += 1
                    page.send(json.dumps({"op": "final", "generation": generation, "prompt": f"a {words}", "seed": 1, "num_steps": 8}))
                clip = None
                while clip is None:
                    said = page.recv(240)
                    if isinstance(said, bytes):
                        continue
                    said = json.loads(said)
                    if said["type"] == "error":
                        self.errors.append(said["message"])
                        break
                    if said["type"] == "clip" and said["mode"] == "turbo" and "id" in said:
                        assert said["generation"] >= newest, "an older clip came after a newer one"
                        clip = newest = said["generation"]
                        found = said["id"]
                        self.clips += 1
                if clip and chance.random() < 0.2:
                    assert len(http.get(f"/rt/clip/{found}.mp4").content) > 1000
                    self.saved += 1
                if clip and chance.random() < 0.05:
                    http.post("/rt/export", json={"a": found, "format": "gif", "scale": 0.5}).raise_for_status()
                time.sleep(chance.uniform(0, 0.5))


def test_five_tabs(minutes, tmp_path, row):
    app = App("app.py", "--port", "0", "--no-browser", "--data-dir", str(tmp_path))
    try:
        while len(app.lines) < 2:
            time.sleep(0.05)
        headers, samples = {"Authorization": f"Bearer {(tmp_path / 'token').read_text()}"}, []
        until = time.monotonic() + 60 * minutes
        tabs = [Tab(number, app.url, headers, until) for number in range(5)]
        for tab in tabs:
            tab.start()
        with httpx.Client(base_url=app.url, headers=headers, timeout=60) as http:
            while time.monotonic() < until:
                time.sleep(min(10.0, 4 * minutes))
                jobs = sum(float(line.rpartition(" ")[2]) for line in http.get("/metrics").text.splitlines() if line.startswith("rushes_jobs_total"))
                samples.append({"jobs": jobs, **measure(app._process.pid)})
                assert http.get("/healthz").status_code == 200
            for tab in tabs:
                tab.join(300)
            listed, before = 0, None
            while (found := http.get("/rt/history", params={} if before is None else {"before": before}).json())["entries"]:
                listed, before = listed + len(found["entries"]), found["entries"][-1]["created"]
    finally:
        code = app.stop()
    assert code == 0 and not [tab.trouble for tab in tabs if tab.trouble], [tab.trouble for tab in tabs]
    assert not [error for tab in tabs for error in tab.errors]
    late = samples[int(SETTLE * len(samples)):]
    jobs = np.array([sample["jobs"] for sample in late])
    slope = 100 * np.polyfit(jobs, [sample["rss_kib"] / 1024 for sample in late], 1)[0] if jobs[-1] - jobs[0] >= 100 else None
    grows = "too few jobs for a slope" if slope is None else f"{slope:+.2f} MiB per 100 jobs"
    spread = {name: (min(sample[name] for sample in late), max(sample[name] for sample in late)) for name in ("fds", "threads")}
    clips, saved = sum(tab.clips for tab in tabs), sum(tab.saved for tab in tabs)
    row(f"five tabs on pocket, {minutes:g} minutes", f"{int(jobs[-1]):,} jobs", f"{clips} clips shown, {saved} saved, {listed} in the history, 0 errors; memory: {grows} "
        f"({samples[0]['rss_kib'] / 1024:.0f} to {samples[-1]['rss_kib'] / 1024:.0f} MiB), open files {spread['fds'][0]} to {spread['fds'][1]}, threads {spread['threads'][0]} to {spread['threads'][1]}")
    if minutes >= 20:               # before that, caches are still being filled
        assert slope is not None and slope <= 1.0
        middle = len(late) // 2
        for name in ("fds", "threads"):
            assert max(sample[name] for sample in late[middle:]) <= max(sample[name] for sample in late[:middle]) + 5, name
