"""Any two clips of the history as A and B: chosen, labelled, seen in every view by one clock, measured, exported, and left again."""
import io

import av
import numpy as np
import pytest

from turbo_engine.fake import FakeEngine
from turbo_engine.resample import by_time, count_at
from turbo_engine.store import Store
from turbo_engine.types import Request, Result

from .conftest import App
from .desk import DeskPage
from .test_compare_view import COMPARE

NASTY = "${alert(1)} <img src=x onerror=alert(1)>"


def clip(prompt: str, mode: str = "turbo", *, frames: int = 33, fps: int = 16, height: int = 256, width: int = 256) -> Result:
    """A clip of any length, rate and size, from a latent of its own."""
    engine = FakeEngine()
    *_, made = engine.generate(Request(prompt, 7, mode, num_steps=4))
    latent = np.zeros(engine.preset.latent_shape(frames, height, width), np.float32)
    latent[:3] = made.latent[:3, :1, :1, :1]
    recipe = {**made.recipe, "num_frames": frames, "fps": fps, "height": height, "width": width}
    return Result(engine.decode(latent), latent, fps, made.stage_s, recipe)


CLIPS = {"robot": clip("a robot"), "ship": clip("a ship sailing past a lighthouse at dusk", "full"),
         "cat": clip("a slow cat", frames=17, fps=8), "dog": clip("a quick dog", frames=29), "fox": clip("a small fox", height=128, width=128),
         "owl": clip("a wide owl", height=128), "nasty": clip(NASTY)}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picks")
    with Store(folder) as store:
        for kept in CLIPS.values():
            store.add(kept)
    app = App("-m", "tests.browser.fake_app", "0", str(folder))
    yield app
    assert app.stop() == 0, "".join(app.lines)


class PicksPage(DeskPage):
    def shot(self, name: str):
        return self.page.locator(".shot", has=self.page.get_by_role("button", name=CLIPS[name].recipe["prompt"][:40]))

    def pick(self, **places: str) -> "PicksPage":
        """By mouse; waits until the pair is measured."""
        for place, name in places.items():
            self.shot(name).first.hover()
            self.shot(name).first.get_by_role("button", name=f"Compare as {place.upper()}").click()
            self.page.locator(f".side-{place}").wait_for()
        self.page.locator(".match-summary:has-text('SSIM')").wait_for()
        self.page.keyboard.press("k")
        return self

    def stand_at(self, tick: int) -> "PicksPage":
        self.page.locator(".scrub").evaluate("(scrub, at) => { scrub.value = at; scrub.dispatchEvent(new Event('input')); }", tick)
        return self

    def sides(self) -> list[str]:
        """Who is on screen, from left to right."""
        figures = self.page.locator(".side:not([hidden])")
        found = figures.evaluate_all("all => all.map((e) => [e.getBoundingClientRect().x, e.querySelector('.side-name').textContent])")
        return [name for _, name in sorted(found)]

    def look(self, script: str):
        return self.page.evaluate(f"async () => {{ {COMPARE} const A = '.side-a .picture', B = '.side-b .picture'; await drawn(); {script} }}")

    def frame_on(self, side: str, name: str) -> int:
        """Which frame of a clip a side's picture is nearest to."""
        seen = np.array(self.look(f"return [...pixels('.side-{side} .picture')];"), np.float32).reshape(*CLIPS[name].frames.shape[1:3], 4)[..., :3]
        return int(np.argmin([np.abs(frame - seen).mean() for frame in CLIPS[name].frames]))


@pytest.fixture
def desk(page, app) -> PicksPage:
    desk = PicksPage(page, app.url).open()
    page.wait_for_function("(n) => document.querySelectorAll('.shot').length >= n", arg=len(CLIPS))
    page.locator(".mark").click()
    return desk


def test_two_clips_of_the_history_are_a_pair_in_every_view(desk):
    page = desk.pick(a="ship", b="robot").page
    assert desk.sides() == ["A · Full", "B · Turbo"]
    assert page.locator(".side-a .side-facts").inner_text() == "seed 7 · a ship sailing past a lighthouse at dusk"
    assert page.locator(".shot-pick[aria-pressed=true]").count() == 2 and page.locator(".shot[data-shown=true]").count() == 2
    desk.stand_at(9)
    assert (desk.frame_on("a", "ship"), desk.frame_on("b", "robot")) == (9, 9)
    page.keyboard.press("w")
    assert desk.look("const p = pixels(PAIR); return [apart(p, pixels(A), 0, 128), apart(p, pixels(B), 128), apart(p, pixels(A), 128) > 30];") == [0, 0, True]
    assert page.locator(".pair-first").inner_text().split("\n") == ["A · Full", "seed 7 · a ship sailing past a lighthouse at dusk"]
    assert page.locator(".pair-second").inner_text().split("\n") == ["B · Turbo", "seed 7 · a robot"]
    assert page.get_by_role("slider", name="Seam between A · Full and B · Turbo").get_attribute("aria-valuetext") == "A · Full 50 %, B · Turbo 50 %"
    page.keyboard.press("s")
    assert desk.sides() == ["B · Turbo", "A · Full"]
    assert desk.look("const p = pixels(PAIR); return [apart(p, pixels(B), 0, 128), apart(p, pixels(A), 128)];") == [0, 0]
    page.keyboard.press("x")
    assert desk.look("return apart(pixels(PAIR), pixels(B));") == 0
    page.keyboard.press("x")
    assert desk.look("return apart(pixels(PAIR), pixels(A));") == 0
    page.keyboard.press("d")
    assert desk.look("const p = pixels(PAIR), a = pixels(A), b = pixels(B); return p.every((v, i) => i % 4 === 3 || v === Math.min(255, 4 * Math.abs(a[i] - b[i])));")
    assert page.locator(".legend-difference").inner_text().startswith("A · Full minus B · Turbo, ×4.")
    page.keyboard.press("o")
    assert desk.look("const p = pixels(PAIR), a = pixels(A), b = pixels(B); return p.every((v, i) => Math.abs(v - (a[i] + b[i]) / 2) <= 1.5);")


def test_by_keyboard_there_and_back(desk):
    page = desk.page
    opened = desk.shot("ship").first.locator(".shot-open")
    assert opened.get_attribute("aria-keyshortcuts") == "A B S Delete"
    opened.focus()
    page.keyboard.press("b")
    page.locator(".side-b").wait_for()
    assert desk.sides() == ["A · Turbo", "B · Full"] and page.locator(".side-a").is_hidden()     # one alone: beside this shot
    desk.shot("robot").first.locator(".shot-open").focus()
    page.keyboard.press("a")
    page.locator(".side-a").wait_for()
    assert desk.sides() == ["A · Turbo", "B · Full"] and page.locator(".side-turbo").is_hidden()
    page.keyboard.press("a")                                            # again takes it away
    page.locator(".side-turbo").wait_for()
    page.keyboard.press("Escape")
    page.locator(".side-b").wait_for(state="hidden")
    assert desk.sides() == ["Turbo"] and not page.locator(".views").is_visible() and page.locator(".shot-pick[aria-pressed=true]").count() == 0


def test_typing_goes_on_beside_one_clip_and_leaves_a_pair_it_is_not_in(desk):
    page = desk.pick(a="ship").page
    desk.prompt.fill("a snowman")
    desk.settle("a snowman")
    assert desk.sides() == ["A · Full", "B · Turbo"]
    assert page.locator(".side-turbo .side-facts").inner_text() == "seed 7 · a snowman"
    desk.pick(b="robot")
    assert page.locator(".side-turbo").is_hidden()
    desk.prompt.fill("a balloon")
    desk.settle("a balloon")
    assert desk.sides() == ["Turbo"]
    desk.pick(a="ship", b="robot")
    page.get_by_role("button", name="This shot").click()
    assert desk.sides() == ["Turbo"]


def test_a_pair_is_there_again_after_a_reload(desk):
    page = desk.pick(a="ship", b="robot").page
    page.reload()
    page.locator(".worst").wait_for()
    assert desk.sides() == ["A · Full", "B · Turbo"] and page.locator(".shot-pick[aria-pressed=true]").count() == 2


def test_clips_of_two_lengths_and_rates_share_one_clock(desk):
    """The cat: 17 frames at 8 a second, 34 ticks; the dog: 29 at 16, which end five ticks before."""
    page = desk.pick(a="cat", b="dog").page
    assert desk.frames() == count_at(17, 8, 16) == 34
    expected = by_time(17, 8, 16, 34)
    for tick in (0, 7, 20, 28):
        desk.stand_at(tick)
        assert (desk.frame_on("a", "cat"), desk.frame_on("b", "dog")) == (expected[tick], tick)
    assert page.locator(".count").inner_text() == "1.75 / 2.13 s" and page.locator(".scrub").get_attribute("aria-valuetext") == "1.75 of 2.13 seconds"
    assert page.locator(".side[data-past=true]").count() == 0
    desk.stand_at(31)
    assert (desk.frame_on("a", "cat"), desk.frame_on("b", "dog")) == (expected[31], 28)
    badge = page.locator(".side-b .badge-past")
    assert badge.inner_text() == "last frame" and badge.evaluate("e => getComputedStyle(e).opacity") == "1"
    page.keyboard.press("w")
    assert page.locator(".pair-past").inner_text() == "B · Turbo: last frame"
    assert page.locator(".plot-ssim").get_attribute("points").count(",") == 34
    ids = [page.locator(f".side-{side} .save").get_attribute("href").split("/")[-1].removesuffix(".mp4") for side in "ab"]
    scores = page.request.get(f"{desk.url}rt/compare/{ids[0]}/{ids[1]}").json()
    worst = scores["ssim"].index(min(scores["ssim"]))
    assert page.locator(".worst").inner_text().startswith(f"worst at {worst / 16:.2f} s (")
    page.locator(".worst").click()
    assert desk.data("index") == str(worst)


def test_a_smaller_clip_is_seen_and_measured_at_the_size_of_the_larger(desk):
    page = desk.pick(a="fox", b="robot").page
    boxes = [page.locator(f".side-{side} .picture").bounding_box() for side in "ab"]
    assert boxes[0]["width"] == pytest.approx(boxes[1]["width"], abs=1) and boxes[0]["height"] == pytest.approx(boxes[1]["height"], abs=1)
    page.keyboard.press("d")
    assert desk.look("return [document.querySelector(A).width, document.querySelector(PAIR).width, pixels(PAIR).some((v, i) => i % 4 < 3 && v > 40)];") == [128, 256, True]


def test_clips_of_two_shapes_are_seen_but_not_subtracted(context, app):
    """Not the page fixture's quiet console: the refused measurement is an error there, and rightly."""
    page = context.new_page()
    desk = PicksPage(page, app.url).open()
    for place, name in (("a", "owl"), ("b", "robot")):
        desk.shot(name).first.locator(f".shot-pick[data-place={place}]").click(force=True)
        page.locator(f".side-{place}").wait_for()
    page.get_by_text("one is 256 x 128, the other 256 x 256. Choose two of the same shape.").wait_for()
    page.locator(".mark").click()
    page.keyboard.press("d")
    page.get_by_text("No difference: one picture is 256 x 128, the other 256 x 256").wait_for()
    assert desk.look("return pixels(PAIR).every((v, i) => i % 4 === 3 || v === 0);")
    page.keyboard.press("x")                                            # in the same box: a quarter of it is above the wide one
    top, middle = desk.look("const p = pixels(PAIR); return [30, 128].map((row) => p.slice(4 * 256 * row, 4 * 256 * (row + 1)).some((v, i) => i % 4 < 3 && v));")
    assert not top and middle
    page.close()


def test_the_chosen_pair_is_what_is_exported(desk):
    page = desk.pick(a="cat", b="robot").page
    page.keyboard.press("e")
    assert page.locator(".export .choice span").all_inner_texts() == ["A · Turbo", "B · Turbo", "Side by side"]
    page.locator(".export").get_by_text("Side by side").click()
    assert page.get_by_label("Last frame").input_value() == "34"
    with page.expect_download() as download:
        page.locator(".export-go").click()
    with av.open(io.BytesIO(download.value.path().read_bytes())) as video:
        assert video.streams.video[0].width >= 512 and sum(1 for _ in video.decode(video=0)) == 34
    page.locator(".export").get_by_text("A · Turbo").click()            # in frames of its own
    assert page.get_by_label("Last frame").input_value() == "17"
    page.get_by_label("First frame").fill("5")
    page.get_by_label("Last frame").fill("6")
    page.get_by_label("Last frame").press("Tab")
    page.keyboard.press("Escape")
    assert page.locator(".untrim").text_content() == "0.50–0.69×"        # both ticks of both frames


def test_a_prompt_with_code_in_it_is_text_in_every_label(desk):
    page = desk.pick(a="nasty", b="robot").page
    page.keyboard.press("w")
    for label in (".pair-first span", ".side-a .side-facts"):
        assert page.locator(label).text_content() == f"seed 7 · {NASTY}"
    assert page.locator(".desk img[src='x']").count() == 0


@pytest.mark.parametrize("width, height", [(1280, 800), (1920, 1080), (900, 900)])
def test_a_chosen_pair_fits_on_one_screen(desk, width, height):
    page = desk.page
    page.set_viewport_size({"width": width, "height": height})
    desk.pick(a="ship", b="cat")
    page.keyboard.press("]")
    for key in "bw":
        page.keyboard.press(key)
        assert page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [width, height]
        stage = page.locator(".stage").bounding_box()
        for selector in (".views", ".unpick", ".untrim", ".transport", ".side-a figcaption", ".side-b figcaption"):
            box = page.locator(selector).bounding_box()
            assert stage["x"] <= box["x"] and box["x"] + box["width"] <= stage["x"] + stage["width"], selector


def test_picks_on_the_real_engine_are_the_clips_that_were_made(page, real_app):
    """A and B come from their kept latents through the real decoder, and look as they did when they were made."""
    desk = PicksPage(page, real_app.url).open()
    looks = {}
    for name, prompt in (("a", "a snowman jumping in a green meadow"), ("b", "a rocket flying to the right in outer space")):
        desk.prompt.fill(prompt)
        desk.settle(prompt)
        page.locator(".mark").click()
        page.keyboard.press("k")
        desk.stand_at(6)
        looks[name] = np.array(desk.look("return [...pixels('.side-turbo .picture')];"), int)
        page.locator(f".shot-open[title^='{prompt}']").wait_for()
    for name, prompt in (("a", "a snowman jumping"), ("b", "a rocket flying")):
        shot = page.locator(".shot", has=page.locator(f".shot-open[title^='{prompt}']")).first
        shot.hover()
        shot.get_by_role("button", name=f"Compare as {name.upper()}").click()
        page.locator(f".side-{name}").wait_for()
    page.locator(".match-summary:has-text('SSIM')").wait_for()
    assert desk.sides() == ["A · Turbo", "B · Turbo"]
    page.keyboard.press("k")
    desk.stand_at(6)
    seen = {name: np.array(desk.look(f"return [...pixels('.side-{name} .picture')];"), int) for name in "ab"}
    assert np.abs(seen["a"] - looks["a"]).mean() < 2 < 10 < np.abs(looks["a"] - looks["b"]).mean()
    assert np.abs(seen["b"] - looks["b"]).mean() < 2
    ids = [page.locator(f".side-{side} .save").get_attribute("href").split("/")[-1].removesuffix(".mp4") for side in "ab"]
    scores = page.request.get(f"{desk.url}rt/compare/{ids[0]}/{ids[1]}").json()
    assert len(scores["ssim"]) == desk.frames() and max(scores["ssim"]) < 0.95
    page.keyboard.press("w")
    width = seen["a"].size // 4
    edge = round(width ** 0.5)
    assert desk.look(f"const p = pixels(PAIR); return [apart(p, pixels(A), 0, {edge // 2}), apart(p, pixels(B), {edge // 2})];") == [0, 0]
    with page.expect_download() as download:
        page.keyboard.press("e")
        page.locator(".export").get_by_text("Side by side").click()
        page.locator(".export-go").click()
    with av.open(io.BytesIO(download.value.path().read_bytes())) as video:
        assert sum(1 for _ in video.decode(video=0)) == desk.frames()


def test_sides_and_labels(page, app):
    desk = PicksPage(page, app.url).open_bare()
    assert desk.module("picks", """
        const all = []; for (const [a, b, full] of [[0,0,0],[0,0,1],[1,0,0],[1,0,1],[0,1,0],[0,1,1],[1,1,0],[1,1,1]]) all.push(m.sidesOf({ a, b, full }).join(' '));
        return [all, m.labelOf({ mode: 'full', prompt: 'a fox', seed: 3 }, ''), m.labelOf({ mode: 'full', prompt: 'a fox', seed: 3 }, 'A'), m.labelOf({ mode: 'turbo' }, 'B')];
    """) == [["turbo", "turbo full", "a turbo", "a full", "turbo b", "turbo b", "a b", "a b"],
             {"name": "Full", "words": ""}, {"name": "A · Full", "words": "seed 3 · a fox"}, {"name": "B · Turbo", "words": ""}]
