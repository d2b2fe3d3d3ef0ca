"""A clip that starts from a picture, by two experts: the real engine on the CPU, on a tiny random preset of A14B's shape."""
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from turbo_engine.picture import cover, read_picture

from .conftest import App
from .desk import DeskPage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny_wan import I2V, a_picture, write_wan_preset  # noqa: E402

TURNED = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"       # one tag: by 90 degrees, clockwise


def photo(width: int = 160, height: int = 100) -> bytes:
    """A JPEG that lies on its side: red above blue as it is stored, and an EXIF tag that says to turn it."""
    pixels = np.full((height, width, 3), (220, 40, 40), np.uint8)            # BGR
    pixels[:height // 2] = (40, 40, 220)
    data = cv2.imencode(".jpg", pixels)[1].tobytes()
    return data[:2] + b"\xff\xe1" + (len(TURNED) + 2).to_bytes(2, "big") + TURNED + data[2:]


@pytest.fixture(scope="module")
def preset_path(tmp_path_factory):
    return write_wan_preset(tmp_path_factory.mktemp("presets"), I2V, "tiny-a14b")


@pytest.fixture(scope="module")
def app(preset_path, tmp_path_factory):
    app = App("app.py", "--preset", str(preset_path), "--port", "0", "--no-browser", "--data-dir", str(tmp_path_factory.mktemp("data")))
    yield app
    assert app.stop() == 0, "".join(app.lines)


@pytest.fixture
def desk(page, app):
    desk = FirstFrame(page, app.url)
    page.goto(app.url)
    page.get_by_text("Live", exact=True).wait_for()
    return desk


class FirstFrame(DeskPage):
    @property
    def crop(self) -> str | None:
        return self.page.locator(".first-crop").get_attribute("src")

    def until_not(self, crop: str | None) -> None:
        """Wait until another picture is there, and its clip."""
        self.page.wait_for_function("(old) => (document.querySelector('.first-crop').getAttribute('src') ?? old) !== old", arg=crop)
        self.settle()

    def choose(self, data: bytes, name: str = "photo.png") -> None:
        before = self.crop
        with self.page.expect_file_chooser() as chooser:
            self.page.locator(".first-choose").click()
        chooser.value.set_files([{"name": name, "mimeType": "image/png", "buffer": data}])
        self.until_not(before)

    def drop(self, data: bytes, name: str, kind: str) -> None:
        self.page.evaluate("""([data, name, type]) => { const files = new DataTransfer(); files.items.add(new File([new Uint8Array(data)], name, { type }));
            document.querySelector('.desk').dispatchEvent(new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true })); }""",
                           [list(data), name, kind])

    def seen(self, selector: str) -> np.ndarray:
        """An <img>'s pixels, RGB."""
        width, height, pixels = self.page.evaluate("""async (selector) => { const image = document.querySelector(selector); await image.decode();
            const canvas = document.createElement('canvas'), context = canvas.getContext('2d');
            Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
            context.drawImage(image, 0, 0);
            return [canvas.width, canvas.height, [...context.getImageData(0, 0, canvas.width, canvas.height).data]]; }""", selector)
        return np.array(pixels, int).reshape(height, width, 4)[..., :3]


def test_it_waits_for_a_picture_and_then_makes_a_clip_of_it(desk):
    page = desk.page
    assert page.locator(".side-turbo .blank").inner_text() == "Choose a picture to start from, or drop one here"
    assert page.locator(".final-button").is_disabled()
    desk.prompt.fill("a cat")
    page.wait_for_timeout(300)
    assert desk.data("asked") is None and page.locator(".message").inner_text() == ""
    desk.choose(a_picture(80, 60))
    desk.settle("a cat")
    assert desk.frames() == 9 and page.locator(".final-button").is_enabled()
    before, crop = desk.fingerprint(), desk.crop
    desk.drop(a_picture(80, 60, channel=0), "blue.png", "image/png")
    desk.until_not(crop)
    assert desk.fingerprint() != before


def test_the_picture_is_turned_and_its_crop_is_the_engines(desk):
    page = desk.page
    desk.drop(photo(), "photo.jpg", "image/jpeg")
    page.locator(".first-frame[data-there=true] .first-crop").wait_for()
    desk.settle()
    whole = desk.seen(".first-whole")
    assert whole.shape == (160, 100, 3) and whole[80, 20, 2] > 180 and whole[80, 80, 0] > 180        # upright, blue left of red
    for size in ("64x64", "96x64"):
        page.locator(".size").select_option(size)
        desk.settle()
        page.wait_for_function("(size) => document.querySelector('.first-crop').src.includes(`width=${size.split('x')[0]}&`)", arg=size)
        crop, cut = desk.seen(".first-crop"), cover(read_picture(photo()), *map(int, size.split("x")))
        assert crop.shape == cut.shape and np.abs(crop - cut).mean() < 6
        boxes = [page.locator(f".first-{name}").bounding_box() for name in ("whole", "crop")]
        assert boxes[0] == boxes[1]                                         # the crop lies over the whole, fitted in
    assert page.locator(".first-facts").inner_text() == "100 × 160, the lit part is used"


def test_clear_takes_it_away_and_what_is_no_picture_is_refused_kindly(context, app):
    """Not the page fixture's quiet console: the refusal is an error there, and rightly."""
    page = context.new_page()
    desk = FirstFrame(page, app.url)
    page.goto(app.url)
    page.get_by_text("Live", exact=True).wait_for()
    desk.choose(a_picture())
    page.get_by_role("button", name="Clear the picture").click()
    assert page.locator(".first-frame").get_attribute("data-there") == "false" and page.locator(".final-button").is_disabled()
    desk.drop(b"<svg/>", "bad.png", "image/png")
    page.get_by_text("image: expected a PNG, JPEG or WebP picture, got another kind of file").wait_for()
    page.close()


@pytest.mark.clock
def test_experts_are_told_while_a_full_render_goes_on(desk):
    page = desk.page
    desk.choose(a_picture())
    desk.choose_full_steps(50)
    page.evaluate("""() => { window.told = new Set(); new MutationObserver(() => told.add(document.querySelector('.final-text').textContent))
        .observe(document.querySelector('.final-text'), { childList: true, characterData: true, subtree: true }); }""")
    page.keyboard.press("Control+Enter")
    page.locator(".side-full .save:not([hidden])").wait_for(timeout=120_000)
    told = " | ".join(page.evaluate("[...window.told]"))
    assert re.search(r"Step \d+ of 50 · high-noise \d+/\d+", told) and re.search(r"Step \d+ of 50 · low-noise \d+/\d+", told)


def test_the_history_and_a_reload_bring_the_picture_back(desk):
    page = desk.page
    desk.choose(a_picture(90, 60))
    desk.prompt.fill("a dog that came back")
    desk.settle("a dog that came back")
    first, src = desk.fingerprint(), desk.crop
    page.locator(".shot-open[title^='a dog that came back']").wait_for()
    desk.choose(a_picture(60, 90, channel=1))
    assert desk.fingerprint() != first
    page.locator(".shot-open[title^='a dog that came back']").last.wait_for()
    page.wait_for_function("document.querySelectorAll(\".shot-open[title^='a dog that came back']\").length === 2")    # two pictures, two clips
    page.locator(".shot-open[title^='a dog that came back']").last.click()
    page.wait_for_function("(src) => document.querySelector('.first-crop').getAttribute('src') === src", arg=src)
    desk.settle("a dog that came back")
    assert desk.fingerprint() == first
    page.reload()
    desk.settle("a dog that came back")
    assert desk.crop == src


def test_a_full_render_pauses_live_where_both_models_do_not_fit(page, preset_path, tmp_path):
    app = App("-m", "tests.browser.small_memory", str(preset_path), str(tmp_path))
    try:
        desk = FirstFrame(page, app.url)
        page.goto(app.url)
        page.get_by_text("Live", exact=True).wait_for()
        desk.choose(a_picture())
        desk.choose_full_steps(50)
        page.keyboard.press("Control+Enter")
        page.get_by_text("Live paused", exact=True).wait_for()
        page.get_by_text("Live waits until the full render is done: both models do not fit into memory together.").wait_for()
        page.evaluate("""() => { const desk = document.querySelector('.desk'), bar = document.querySelector('.final-progress'); window.seen = [];
            const look = () => seen.push([bar.hidden, desk.dataset.shownPrompt]);
            for (const place of [desk, bar]) new MutationObserver(look).observe(place, { attributes: true }); }""")
        desk.prompt.fill("a dog typed meanwhile")
        desk.settle("a dog typed meanwhile")
        seen = page.evaluate("seen")
        assert [False, "a dog typed meanwhile"] not in seen and seen[0][0] is False         # typed under the render, made after it
        page.get_by_text("Live", exact=True).wait_for()
        assert not page.locator(".final-progress").is_visible() and page.locator(".shot[data-mode=full]").count() == 1
        page.close()
    finally:
        assert app.stop() == 0, "".join(app.lines)
