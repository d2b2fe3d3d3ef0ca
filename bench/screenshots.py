"""The pictures of README and docs, from the running app: `python -m bench.screenshots --out docs`.

Starts the app on the real pocket model in a fresh data folder, works with it as a person would and takes a picture at each
stop: live, side by side, wipe, difference, history, export. WebP, 1280 x 800.
"""
import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Page

from bench.bench_studio import open_app, settle

SHOTS = ("a snowman spinning in the snow at night", "a balloon floating in a green meadow", "a cactus growing in the desert",
         "a sailboat sailing to the right on a beach at sunset", "a rocket flying to the right in outer space, camera pans right",
         "a yellow cab driving right in falling snow", "a fire engine driving to the left in the desert at noon")
QUALITY = 82


def take(page: Page, path: Path) -> None:
    page.mouse.move(4, 4)
    time.sleep(0.5)
    picture = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    if not cv2.imwrite(str(path), picture, (cv2.IMWRITE_WEBP_QUALITY, QUALITY)):
        raise OSError(f"{path}: could not be written; expected a folder that exists")
    print(path, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs"))
    out = parser.parse_args().out
    with open_app() as page:
        for shot in SHOTS:
            page.locator(".prompt").fill(shot)
            settle(page, shot)
        page.wait_for_function(f"document.querySelectorAll('.shot').length >= {len(SHOTS)}", timeout=60_000)
        take(page, out / "live.webp")
        page.locator(".mark").click()
        page.keyboard.press("Control+Enter")
        page.locator(".worst").wait_for(timeout=120_000)
        page.keyboard.press("k")
        page.locator(".plot").click(position={"x": 220, "y": 10})
        for key, name in (("b", "side-by-side"), ("w", "wipe"), ("d", "difference")):
            page.keyboard.press(key)
            take(page, out / f"{name}.webp")
        page.keyboard.press("w")
        page.keyboard.press("e")
        page.get_by_text("About").wait_for()
        take(page, out / "export.webp")
        page.keyboard.press("Escape")
        page.locator(".shot-star").nth(2).click()
        page.locator(".history-search").fill("snow")
        page.wait_for_function("document.querySelectorAll('.shot').length === 2")
        take(page, out / "history.webp")


if __name__ == "__main__":
    main()
