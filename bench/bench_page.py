"""What a person at this machine waits for: from a keystroke to the first picture and to the whole clip, on the page.

    python -m bench.bench_page [--prompts 20] [--out bench/results/page-cpu.json]

Starts the app, opens it in Chromium (on PATH; software drawing, as on a server) and types prompts never made before. Times
are the page's own: from the input event to the first drawn picture and to the last decoded frame. App, browser and driver share
the machine's cores. A few edits more are made in the middle of a full render, which gives way to them. Last line of stdout:
one JSON object.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright

from bench.machine import facts
from turbo_engine.distill.captions import caption
from turbo_engine.distill.world import load_world, sample_specs

BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync"]


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


def measure_between(page: Page, prompts: list[str]) -> list[tuple[float, float]]:
    """`measure` while a full render is under way, which is then cancelled."""
    page.keyboard.press("Control+Enter")
    page.get_by_text(re.compile(r"Step \d+ of 50")).wait_for()
    rows = measure(page, prompts)
    page.get_by_role("button", name="Cancel").first.click()
    return rows


@contextmanager
def open_app() -> Iterator[Page]:
    """The app on the real model and an empty data folder, its page open in Chromium and its first clip shown."""
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        app = subprocess.Popen([sys.executable, "app.py", "--port", "0", "--no-browser", "--data-dir", data], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            url = next(found[0] for line in app.stdout if (found := re.search(r"http://\S+", line)))
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER_FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.goto(url)
            settle(page, None)
            yield page
            browser.close()
        finally:
            app.terminate()
            app.wait(20)


def spread(rows: list[tuple[float, float]]) -> dict:
    columns = np.array(rows).T
    return {name: {"best": column.min(), "p50": float(np.median(column)), "p95": float(np.percentile(column, 95))}
            for name, column in zip(("keystroke_to_picture_s", "keystroke_to_whole_clip_s"), columns)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    world, rng = load_world(), random.Random(11)
    prompts = [caption(world, spec, rng, canonical=True) for spec in sample_specs(world, args.prompts + 6, rng)]
    start = time.monotonic()
    with open_app() as page:
        ready_s = time.monotonic() - start
        alone = spread(measure(page, prompts[:args.prompts]))
        between = spread(measure_between(page, prompts[args.prompts:]))
        version = page.context.browser.version
    result = {"bench": "page", **facts(), "browser": f"Chromium {version}", "prompts": args.prompts, "start_to_first_clip_s": round(ready_s, 1),
              **alone, "during_a_full_render": between}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
