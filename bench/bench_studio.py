"""What a person at this machine waits for on the page, and what the page costs.

    python -m bench.bench_studio [--prompts 20] [--out bench/results/studio-2-cores.json]

Starts the app, opens it in Chromium (on PATH; software drawing, as on a server) and types. App, browser and driver share the
machine's cores. Times are the page's own: from the input event to the first drawn picture and to the last decoded frame.
Two engines: pocket, on prompts never made before, some of them in the middle of a full render, which gives way, and a full render alone; and one of
240 ms a clip (bench/fake_desk.py), typed at in bursts, the times from each burst's last key, the best of three rounds. Then how
long a scrub takes to draw, and the tab's memory after 200 clips. Last line of stdout: one JSON object.
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


def settle(page: Page, prompt: str | None, limit_s: float = 60, pause_s: float = 0.5) -> None:
    """Wait for the whole clip, looking only twice a second so that the looking costs nothing."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        state = page.evaluate("({ ...document.querySelector('.desk')?.dataset })")
        if state.get("settled") == "true" and prompt in (None, state.get("shownPrompt")):
            return
        time.sleep(pause_s)
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


def measure_full(page: Page) -> float:
    """From the key to the full render beside the turbo clip, seconds."""
    start = time.monotonic()
    page.keyboard.press("Control+Enter")
    page.wait_for_function("document.querySelector('.desk').dataset.pair === 'true'", timeout=180_000, polling=250)
    return time.monotonic() - start


@contextmanager
def open_app(*, fake: bool = False) -> Iterator[Page]:
    """The app on an empty data folder, its page open in Chromium and its first clip shown. fake: on the engine of 240 ms."""
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        command = ["-m", "bench.fake_desk", data] if fake else ["app.py", "--port", "0", "--no-browser", "--data-dir", data]
        app = subprocess.Popen([sys.executable, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
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


def measure_bursts(page: Page, rng: random.Random, bursts: int) -> list[tuple[float, float]]:
    """(first picture, whole clip) from the last key of a burst of typing, seconds."""
    rows = []
    for _ in range(bursts):
        page.locator(".prompt").fill("")
        word = "".join(rng.choices("abcdefghijklmnop", k=10))
        page.locator(".prompt").press_sequentially(word, delay=70)
        settle(page, word, pause_s=0.1)
        facts = page.locator(".times").inner_text()
        rows.append((seconds(facts, "keystroke to picture"), seconds(facts, "whole clip")))
    return rows


def measure_scrub(page: Page, count: int = 300) -> list[float]:
    """Milliseconds from a move of the scrub bar to the drawn picture, read back so that the drawing has really happened."""
    return page.evaluate("""async (count) => {
        const scrub = document.querySelector(".scrub"), canvas = document.querySelector(".side-turbo .picture");
        const context = canvas.getContext("2d"), times = [];
        for (let i = 0; i < count; i += 1) {
            scrub.value = (i * 7) % (Number(scrub.max) + 1);
            const start = performance.now();
            scrub.dispatchEvent(new Event("input"));
            context.getImageData(0, 0, 1, 1);
            times.push(performance.now() - start);
            if (i % 20 === 0) await new Promise(requestAnimationFrame);
        }
        return times; }""", count)


def tab_mib(page: Page) -> float:
    """Memory of all Chromium page and drawing processes (no other may run), after collecting garbage: proportional set size, MiB."""
    page.context.new_cdp_session(page).send("HeapProfiler.collectGarbage")
    time.sleep(2)
    total_kib = 0
    for folder in Path("/proc").iterdir():
        try:
            arguments = (folder / "cmdline").read_text()
            if "chromium" in arguments and re.search("--type=(renderer|gpu-process)", arguments):
                total_kib += int(re.search(r"^Pss:\s+(\d+)", (folder / "smaps_rollup").read_text(), re.M)[1])
        except (OSError, TypeError):
            continue                                     # not a process, or it has just ended
    return total_kib / 1024


def measure_memory(page: Page, clips: int) -> dict:
    """The tab's memory before and after so many clips were shown and overtaken, MiB."""
    before = tab_mib(page)
    for i in range(clips):
        page.locator(".prompt").fill(f"clip number {i}")
        settle(page, f"clip number {i}", pause_s=0.1)
    return {"clips": clips, "before": before, "after": tab_mib(page)}


def spread(rows: list[tuple[float, float]]) -> dict:
    columns = np.array(rows).T
    return {name: {"best": column.min(), "p50": float(np.median(column)), "p95": float(np.percentile(column, 95))}
            for name, column in zip(("keystroke_to_picture_s", "keystroke_to_whole_clip_s"), columns)}


def pocket(prompts: list[str]) -> dict:
    """The last six prompts are typed during a full render."""
    start = time.monotonic()
    with open_app() as page:
        ready_s = time.monotonic() - start
        alone, between = measure(page, prompts[:-6]), measure_between(page, prompts[-6:])
        return {"browser": f"Chromium {page.context.browser.version}", "prompts": len(alone), "start_to_first_clip_s": round(ready_s, 1),
                **spread(alone), "during_a_full_render": spread(between), "full_render_s": round(measure_full(page), 1)}


def engine_of_240_ms(bursts: int, clips: int) -> dict:
    with open_app(fake=True) as page:
        rng = random.Random(5)
        rounds = [spread(measure_bursts(page, rng, bursts)) for _ in range(3)]
        best = min(rounds, key=lambda spread: spread["keystroke_to_whole_clip_s"]["p50"])
        scrub = measure_scrub(page)
        return {"bursts": bursts, **best, "scrub_draw_ms": {"p50": float(np.median(scrub)), "p95": float(np.percentile(scrub, 95))},
                "tab_memory_mib": measure_memory(page, clips)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--clips", type=int, default=200, help="clips shown and overtaken between two looks at the tab's memory")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    world, rng = load_world(), random.Random(11)
    prompts = [caption(world, spec, rng, canonical=True) for spec in sample_specs(world, args.prompts + 6, rng)]
    result = {"bench": "studio", **facts(), "pocket": pocket(prompts), "engine_of_240_ms": engine_of_240_ms(args.prompts, args.clips)}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
