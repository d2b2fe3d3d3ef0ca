"""What a person at this machine waits for: from a keystroke to the first picture and to the whole clip, on the page.

    python -m bench.bench_page [--prompts 20] [--out bench/results/page-cpu.json] [--picture docs/page.png]

Starts the app, opens it in Chromium (on PATH; software drawing, as on a server) and types prompts never made before. Times
are the page's own: from the input event to the first drawn picture and to the last decoded frame. App, browser and driver share
the machine's cores. `--picture` also renders one shot in full and saves a screenshot. Last line of stdout: one JSON object.
"""
import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from bench.machine import facts
from turbo_engine.distill.captions import caption
from turbo_engine.distill.world import load_world, sample_specs

BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync"]
SHOWN = "a fire engine driving to the left in the desert at noon"


def seconds(text: str, label: str) -> float:
    """The time that stands after a label in the page's line of facts, "0.42 s" or "80 ms"."""
    value, unit = re.search(rf"{label}\s+([\d.]+) (s|ms)", text).groups()
    return float(value) / (1000 if unit == "ms" else 1)


def settle(page: Page, prompt: str | None, limit_s: float = 60) -> None:
    """Wait for the whole clip, looking twice a second so that the looking costs nothing."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        state = page.evaluate("({ ...document.querySelector('.desk')?.dataset })")
        if state.get("settled") == "true" and prompt in (None, state.get("shownPrompt")):
            return
        time.sleep(0.5)
    raise TimeoutError(f"the page did not finish {prompt!r} in {limit_s} s")


def measure(page: Page, prompts: list[str]) -> list[tuple[float, float]]:
    """(first picture, whole clip) of each prompt, seconds."""
    rows = []
    for prompt in prompts:
        page.locator(".prompt").fill(prompt)
        settle(page, prompt)
        facts = page.locator(".times").inner_text()
        rows.append((seconds(facts, "keystroke to picture"), seconds(facts, "whole clip")))
        time.sleep(0.5)
    return rows


def photograph(page: Page, path: Path) -> None:
    """A shot and its full render side by side."""
    page.locator(".prompt").fill(SHOWN)
    settle(page, SHOWN)
    page.keyboard.press("Control+Enter")
    page.get_by_text("50 steps").wait_for(timeout=120_000)
    time.sleep(1.5)
    page.screenshot(path=path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args()
    world, rng = load_world(), random.Random(11)
    prompts = [caption(world, spec, rng, canonical=True) for spec in sample_specs(world, args.prompts, rng)]
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        start = time.monotonic()
        app = subprocess.Popen([sys.executable, "app.py", "--port", "0", "--no-browser", "--data-dir", data], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            url = next(found[0] for line in app.stdout if (found := re.search(r"http://\S+", line)))
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER_FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(url)
            settle(page, None)
            ready_s = time.monotonic() - start
            rows = np.array(measure(page, prompts))
            if args.picture:
                photograph(page, args.picture)
            version = browser.version
            browser.close()
        finally:
            app.terminate()
            app.wait(20)
    result = {"bench": "page", **facts(), "browser": f"Chromium {version}", "prompts": len(rows), "start_to_first_clip_s": round(ready_s, 1)}
    for column, name in enumerate(("keystroke_to_picture_s", "keystroke_to_whole_clip_s")):
        result[name] = {"best": rows[:, column].min(), "p50": float(np.median(rows[:, column])), "p95": float(np.percentile(rows[:, column], 95))}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
