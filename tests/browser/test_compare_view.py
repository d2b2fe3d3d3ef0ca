"""Turbo and full in one picture: what each view shows, by its pixels; the look into it; the plot of how alike they are."""

import re

import pytest

from .desk import DeskPage

# Reading from a copy: Chromium warns of canvases that are read often, and rightly.
PIXELS = """(name) => { const from = document.querySelector(name), { width, height } = from,
    copy = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
    copy.drawImage(from, 0, 0);
    return copy.getImageData(0, 0, width, height).data; }"""
COMPARE = f"""const pixels = {PIXELS}, TURBO = '.side-turbo .picture', FULL = '.side-full .picture', PAIR = '.pair-picture';
    const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    /** The largest difference of two pictures in columns [from, to). */
    const apart = (a, b, from = 0, to = 256) => {{ let most = 0;
        for (let i = 0; i < a.length; i += 1) {{
            const column = (i >> 2) % 256;
            if (column >= from && column < to) most = Math.max(most, Math.abs(a[i] - b[i]));
        }} return most; }};"""

TURBO_NAME, FULL_NAME = (f".pair-name[data-side={side}]" for side in ("turbo", "full"))


class PairPage(DeskPage):
    """A desk with both clips on it, standing at a frame."""

    def open_pair(self, prompt: str = "unlike") -> "PairPage":
        self.open()
        self.prompt.fill(prompt)
        self.settle(" ".join(prompt.split()))
        self.choose_full_steps(10)
        self.page.locator(".advanced summary").click()
        self.render_full()
        self.page.keyboard.press("Escape")
        self.page.locator(".mark").click()
        self.page.locator(".views").wait_for()
        return self.stand_at(5)

    def stand_at(self, frame: int) -> "PairPage":
        self.page.locator(".scrub").evaluate(
            "(scrub, frame) => { scrub.value = frame; scrub.dispatchEvent(new Event('input')); }", frame)
        return self

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def look(self, script: str):
        """Run a script that may use `pixels`, `apart` and the canvases' names, after the next picture is drawn."""
        return self.page.evaluate(f"async () => {{ {COMPARE} await drawn(); {script} }}")

    @property
    def view(self) -> str:
        return self.data("view")

    def box(self, selector: str) -> dict:
        return self.page.locator(selector).bounding_box()


@pytest.fixture
def pair(page, fake_app) -> PairPage:
    """Full is the negative of turbo here."""
    return PairPage(page, fake_app.url).open_pair()


# -- views -------------------------------------------------------------------------------------------------------------

def test_the_views_are_there_when_both_clips_are_and_come_back_with_them(pair):
    page = pair.page
    assert pair.view == "side" and not page.locator(".pair").is_visible()
    page.get_by_role("button", name="Wipe").click()
    assert pair.view == "wipe" and page.locator(".pair").is_visible() and not page.locator(".side-full .frame").is_visible()
    assert page.get_by_role("button", name="Wipe").get_attribute("aria-pressed") == "true"
    assert page.locator(".side-full .save").is_visible()
    pair.prompt.fill("a robot")
    pair.settle("a robot")
    assert pair.view == "side" and not page.locator(".views").is_visible() and not page.locator(".plot").is_visible()
    assert page.locator(".side-turbo .frame").is_visible()
    page.locator(".mark").click()
    pair.press("d", "x", "o", "s")
    assert pair.view == "side" and pair.data("swapped") == "false"
    page.locator(".return").click()
    page.locator(".views").wait_for()
    assert pair.view == "wipe"
    pair.press("b")
    assert pair.view == "side" and page.locator(".side-turbo .frame").is_visible()


def test_a_wipe_is_turbo_left_of_the_seam_and_full_right_of_it(pair):
    pair.press("w")
    left_and_right = """const p = pixels(PAIR), [l, r] = [pixels(LEFT), pixels(RIGHT)];
        return [apart(p, l, 0, 128), apart(p, r, 128), apart(p, r, 0, 128) > 60, apart(p, l, 128) > 60];"""
    assert pair.look(left_and_right.replace("LEFT", "TURBO").replace("RIGHT", "FULL")) == [0, 0, True, True]
    assert pair.box(TURBO_NAME)["x"] < pair.box(".seam")["x"] < pair.box(FULL_NAME)["x"]
    pair.press("s")
    assert pair.look(left_and_right.replace("LEFT", "FULL").replace("RIGHT", "TURBO")) == [0, 0, True, True]
    assert pair.box(TURBO_NAME)["x"] > pair.box(".seam")["x"] > pair.box(FULL_NAME)["x"]
    assert pair.box(".side-full .side-name")["x"] < pair.box(".side-turbo .side-name")["x"]


def test_the_seam_goes_where_it_is_dragged(pair):
    page = pair.page
    pair.press("w")
    frame, seam = pair.box(".pair .frame"), pair.box(".seam")
    middle = frame["y"] + frame["height"] / 2
    page.mouse.move(seam["x"] + 16, middle)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] / 4, middle, steps=4)
    page.mouse.up()
    assert page.locator(".seam").get_attribute("aria-valuenow") == "25"
    assert pair.look("const p = pixels(PAIR); return [apart(p, pixels(TURBO), 0, 64), apart(p, pixels(FULL), 64)];") == [0, 0]
    page.mouse.move(frame["x"] + frame["width"] * 0.6, middle)         # anywhere else in the picture does too
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] * 0.75, middle, steps=4)
    page.mouse.up()
    assert pair.look("const p = pixels(PAIR); return [apart(p, pixels(TURBO), 0, 192), apart(p, pixels(FULL), 192)];") == [0, 0]
    assert page.locator(".play").get_attribute("aria-label") == "Play"          # a drag is not a click on the picture
    page.mouse.click(frame["x"] + 30, middle)
    page.get_by_role("button", name="Pause", exact=True).wait_for()


def test_the_seam_is_a_slider_for_the_keyboard(pair):
    pair.press("w")
    seam = pair.page.get_by_role("slider", name="Seam between turbo and full")
    seam.focus()
    pair.press("ArrowRight", "ArrowRight", "ArrowUp", "ArrowLeft")
    assert seam.get_attribute("aria-valuenow") == "52" and seam.get_attribute("aria-valuetext") == "Turbo 52 %, Full 48 %"
    assert pair.data("index") == "5"                                            # those arrows were not the transport's
    pair.press("Shift+ArrowLeft")
    assert seam.get_attribute("aria-valuenow") == "42"
    pair.press("End")
    assert pair.look("return apart(pixels(PAIR), pixels(TURBO));") == 0
    pair.press("Home")
    assert pair.look("return apart(pixels(PAIR), pixels(FULL));") == 0
    pair.press("d")
    assert pair.view == "difference"                                            # other keys are the desk's there too


def test_flip_shows_one_or_the_other_in_the_same_place(pair):
    shows = "const p = pixels(PAIR); return apart(p, pixels(TURBO)) === 0 ? 'turbo' : apart(p, pixels(FULL)) === 0 ? 'full' : 'neither';"
    pair.press("x")
    assert pair.look(shows) == "turbo" and pair.page.locator(TURBO_NAME).evaluate("e => getComputedStyle(e).opacity") == "1"
    place = pair.box(".pair-picture")
    pair.press("x")
    assert pair.look(shows) == "full" and pair.page.locator(TURBO_NAME).evaluate("e => getComputedStyle(e).opacity") == "0"
    assert pair.box(".pair-picture") == place
    pair.press("x")
    assert pair.look(shows) == "turbo"
    pair.press("s")
    assert pair.look(shows) == "full"
    pair.press("w", "x")
    assert pair.look(shows) == "full"                                           # the first side first, which swapping made full


def test_difference_is_four_times_as_bright_and_says_what_it_is(pair):
    pair.press("d")
    assert pair.look("""const p = pixels(PAIR), a = pixels(TURBO), b = pixels(FULL);
        return p.every((v, i) => i % 4 === 3 ? v === 255 : v === Math.min(255, 4 * Math.abs(a[i] - b[i])));""")
    legend = pair.page.locator(".legend-difference")
    assert re.search("×4.*[Aa]pproximate: from the JPEGs on screen", legend.inner_text())
    assert legend.evaluate("e => getComputedStyle(e).opacity") == "1"
    pair.press("w")
    assert legend.evaluate("e => getComputedStyle(e).opacity") == "0"


def test_the_difference_of_equal_clips_is_black(page, fake_app):
    pair = PairPage(page, fake_app.url).open_pair("a robot")        # the stand-in's full clip is its turbo clip
    pair.press("d")
    assert pair.look("return pixels(PAIR).every((value, i) => value === (i % 4 === 3 ? 255 : 0));")
    assert pair.look("return apart(pixels(TURBO), pixels(FULL));") == 0
    page.get_by_text("Every frame is the same, to the bit").wait_for()


def test_onion_is_half_and_half(pair):
    pair.press("o")
    assert pair.look("""const p = pixels(PAIR), a = pixels(TURBO), b = pixels(FULL);
        return p.every((v, i) => Math.abs(v - (a[i] + b[i]) / 2) <= 1.5);""")


def test_side_by_side_swaps_too(pair):
    assert pair.box(".side-turbo")["x"] < pair.box(".side-full")["x"]
    pair.page.get_by_role("button", name="Swap the sides").click()
    assert pair.box(".side-turbo")["x"] > pair.box(".side-full")["x"]
    pair.press("s")
    assert pair.box(".side-turbo")["x"] < pair.box(".side-full")["x"]


def test_five_seconds_of_playback_without_one_frame_of_difference(pair):
    """Full is the negative of turbo: turbo + full is white where both are at one frame, and up to 25 off where they are a frame apart.
    And the wipe is made of exactly what the two sides show."""
    pair.press("w", " ")
    apart, seen, looked = pair.look("""
        const seen = new Set(), until = performance.now() + 5000; let wrong = 0, looked = 0;
        while (performance.now() < until || looked <= 60 || seen.size < 33) {        // longer where the machine is slow
            await new Promise(requestAnimationFrame);
            const a = pixels(TURBO), b = pixels(FULL), p = pixels(PAIR); let off = 0;
            for (let i = 0; i < a.length; i += 4) off += Math.abs(255 - a[i] - b[i]);
            if (off / (a.length / 4) > 4 || apart(p, a, 0, 128) || apart(p, b, 128)) wrong += 1;
            seen.add(document.querySelector('.desk').dataset.index); looked += 1;
        }
        return [wrong, seen.size, looked];""")
    assert apart == 0 and seen == 33 and looked > 60


def test_keys_are_never_taken_from_the_words(pair):
    page, letters = pair.page, "wxdosb WXDOSB+-=0"
    pair.press("w")
    pair.prompt.fill("")
    pair.prompt.press_sequentially(letters)
    assert pair.prompt.input_value() == letters and pair.data("swapped") == "false"
    pair.prompt.fill("unlike")
    pair.settle("unlike")
    assert pair.view == "wipe"
    page.locator(".seed").focus()
    pair.press("d")
    page.locator(".advanced summary").click()
    page.locator(".sampler").focus()
    pair.press("x")
    assert pair.view == "wipe"
    page.locator(".scrub").focus()                                      # a slider has no use for letters
    pair.press("d")
    assert pair.view == "difference"
    pair.press("ArrowRight")
    assert pair.data("index") == "6"


# -- zoom --------------------------------------------------------------------------------------------------------------

LOOKS = """() => [...document.querySelectorAll('.picture, .pair-picture')].map((c) => getComputedStyle(c)).map((s) => [s.transform, s.imageRendering])"""


def test_zoom_and_pan_keep_both_in_step(pair):
    page, frame = pair.page, pair.box(".side-full .frame")

    def looks():
        each = page.evaluate(LOOKS)
        assert each[1] == each[2]           # the two sides; the hidden pair's picture comes first
        return each[1]

    def under(x, y):
        """Where the point (x, y) of the frame falls in the picture, in shares."""
        picture = pair.box(".side-full .picture")
        return [(frame["x"] + x * frame["width"] - picture["x"]) / picture["width"], (frame["y"] + y * frame["height"] - picture["y"]) / picture["height"]]

    def at(x, y):
        return frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]

    assert looks() == ["none", "auto"]
    page.mouse.move(*at(0.25, 0.75))
    page.mouse.wheel(0, -450)
    page.locator(".whole").wait_for()
    assert under(0.25, 0.75) == pytest.approx([0.25, 0.75], abs=0.01) and looks()[1] == "auto"
    page.mouse.wheel(0, -450)
    page.wait_for_function("document.querySelector('.sides').dataset.pixels === 'true'")
    assert under(0.25, 0.75) == pytest.approx([0.25, 0.75], abs=0.01) and looks()[1] == "pixelated"
    page.mouse.down()
    page.mouse.move(*at(0.35, 0.7), steps=5)
    page.mouse.up()
    assert under(0.35, 0.7) == pytest.approx([0.25, 0.75], abs=0.01)
    assert page.locator(".play").get_attribute("aria-label") == "Play"
    pair.press("0")
    page.mouse.move(*at(0.05, 0.05))
    page.mouse.wheel(0, -5000)
    page.wait_for_function("document.querySelector('.whole').textContent === '8.0×'")
    page.mouse.down()
    page.mouse.move(*at(0.9, 0.9), steps=3)
    page.mouse.up()
    picture = pair.box(".side-turbo .picture")
    assert picture["x"] == pytest.approx(pair.box(".side-turbo .frame")["x"], abs=0.5)      # the picture's edge stops at the frame's
    look = looks()
    pair.press("w")
    assert page.evaluate(LOOKS)[0] == look                              # the same look in every view
    page.mouse.dblclick(*[pair.box(".pair .frame")[k] + 30 for k in "xy"])
    assert page.evaluate(LOOKS)[0] == ["none", "auto"] and not page.locator(".whole").is_visible()
    pair.press("+", "+", "-")
    assert page.locator(".whole").inner_text() == "1.5×"
    pair.press("0")
    assert page.evaluate(LOOKS)[0][0] == "none"


def test_in_a_near_wipe_the_seam_still_divides_the_two(pair):
    pair.press("w", "+", "+", "+", "+")
    frame = pair.box(".pair .frame")
    seam = pair.box(".seam")["x"] + 16
    column = pair.page.evaluate("""() => { const s = document.querySelector('.seam').getBoundingClientRect(), p = document.querySelector('.pair-picture')
        .getBoundingClientRect(); return ((s.left + 16 - p.left) / p.width) * 256; }""")
    assert column == pytest.approx(round(column), abs=0.05) and abs(seam - frame["x"] - frame["width"] / 2) < frame["width"] * 5 / 256
    assert pair.look(f"const p = pixels(PAIR), c = {round(column)}; return [apart(p, pixels(TURBO), 0, c), apart(p, pixels(FULL), c)];") == [0, 0]


# -- the plot ----------------------------------------------------------------------------------------------------------

def test_the_plot_tells_how_alike_each_frame_is_and_goes_there(pair):
    page = pair.page
    worst = page.locator(".worst")
    worst.wait_for()
    said = re.fullmatch(r"SSIM (0\.\d{3}) mean, worst frame (\d+) \((0\.\d\d)\) · PSNR ([\d.]+) dB mean", page.locator(".match-summary").inner_text())
    ids = [re.search("clip/(.*).mp4", page.locator(f".side-{side} .save").get_attribute("href"))[1] for side in ("turbo", "full")]
    scores = page.request.get(f"{pair.url}rt/compare/{ids[0]}/{ids[1]}").json()
    assert float(said[1]) == pytest.approx(sum(scores["ssim"]) / 33, abs=6e-4) and int(said[2]) == scores["ssim"].index(min(scores["ssim"])) + 1
    assert float(said[4]) == pytest.approx(sum(scores["psnr_db"]) / 33, abs=0.06)
    assert page.locator(".plot").get_attribute("aria-describedby") == page.locator(".match-summary").get_attribute("id")
    assert page.locator(".plot-ssim").get_attribute("points").count(",") == 33
    plot, scrub = pair.box(".plot svg"), pair.box(".scrub")
    assert plot["x"] == pytest.approx(scrub["x"] + 7, abs=1) and plot["width"] == pytest.approx(scrub["width"] - 14, abs=1)
    page.mouse.move(plot["x"] + plot["width"] * 20 / 32, plot["y"] + 5)
    assert page.locator(".match-frame").inner_text().startswith(f"frame 21 · SSIM {scores['ssim'][20]:.3f} · PSNR ")
    page.mouse.down()
    page.mouse.up()
    assert pair.data("index") == "20" and page.locator(".play").get_attribute("aria-label") == "Play"
    page.mouse.move(5, 5)
    worst.click()
    assert int(pair.data("index")) + 1 == int(said[2])


def test_what_cannot_be_measured_is_said(pair):
    pair.page.locator(".worst").wait_for()
    assert pair.module("match", """
        const root = document.querySelector('.desk'), match = new m.Match(root, { onJump() {}, load: async () => { throw new Error('no longer kept'); } });
        await match.measure('a', 'b');
        return [root.querySelector('.match-summary').textContent, root.querySelector('.plot').dataset.empty];
    """) == ["no longer kept", "true"]


def test_scores_in_words(pair):
    assert pair.module("match", """
        const words = (s) => { const { text, worst, rest } = m.summary(s); return text + worst.text + rest; };
        return [words({ ssim: [0.97, 0.94, 0.96], psnr_db: [32, 30.4, 31.2] }), words({ ssim: [1, 1], psnr_db: [null, null] }),
            words({ ssim: [1, 0.9], psnr_db: [null, 28] }), m.scales({ ssim: [0.97, 0.94], psnr_db: [32, 28] }), m.scales({ ssim: [0.1], psnr_db: [null] })];
    """) == ["SSIM 0.957 mean, worst frame 2 (0.94) · PSNR 31.2 dB mean", "Every frame is the same, to the bit",
             "SSIM 0.950 mean, worst frame 2 (0.90) · PSNR 28.0 dB mean, over the one frame that differs",
             {"ssim": [0.9, 1], "psnr": [20, 40]}, {"ssim": [0, 1], "psnr": [30, 40]}]


# -- room and time -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("width, height", [(1280, 800), (1920, 1080), (900, 900), (900, 700)])
def test_every_view_fits_on_one_screen(page, fake_app, width, height):
    page.set_viewport_size({"width": width, "height": height})
    pair = PairPage(page, fake_app.url).open_pair()
    page.locator(".worst").wait_for()
    for key in "bwxdo":
        pair.press(key)
        assert page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]") == [width, height]
        picture = pair.box(".pair .frame" if key != "b" else ".side-turbo .frame")
        above = [picture, pair.box(".side-turbo figcaption"), pair.box(".views"), pair.box(".transport"), pair.box(".times")]
        for upper, lower in zip(above, above[1:]):
            assert upper["y"] + upper["height"] <= lower["y"] + 1
        assert picture["width"] == pytest.approx(picture["height"], abs=0.5) and picture["y"] > pair.box(".bar")["height"]
        right = page.evaluate("Math.max(...[...document.querySelectorAll('.stage :is(button, input, canvas, a, .plot)')].filter((e) => e.checkVisibility())"
                              ".map((e) => e.getBoundingClientRect().right))")
        assert right <= page.locator(".stage").evaluate("e => e.getBoundingClientRect().right")


def test_a_draw_takes_no_time_to_speak_of(page, fake_app):
    """4 ms of a 16 ms frame, on two cores without a GPU; a read-back makes each draw really happen."""
    took = DeskPage(page, fake_app.url).open_bare().module("blend", """
        const noisy = async () => { const image = new ImageData(256, 256); for (let i = 0; i < image.data.length; i += 1) image.data[i] = Math.random() * 256;
            return createImageBitmap(image); };
        const a = await noisy(), b = await noisy(), context = new OffscreenCanvas(256, 256).getContext('2d', { alpha: false, willReadFrequently: true });
        return Object.fromEntries(['wipe', 'flip', 'difference', 'onion'].map((view) => { const times = [];
            for (let i = 0; i < 200; i += 1) { const from = performance.now(); m.blend(context, view, a, b, { column: i, second: i % 2 });
                context.getImageData(0, 0, 1, 1); times.push(performance.now() - from); }
            times.sort((x, y) => x - y); return [view, [times[100], times[190]]]; }));
    """)
    print({view: f"p50 {p50:.2f} ms, p95 {p95:.2f} ms" for view, (p50, p95) in took.items()})
    assert all(p50 <= 4 for p50, _ in took.values())


def test_clips_of_other_rates_and_lengths_meet_by_time(page, fake_app):
    desk = DeskPage(page, fake_app.url).open_bare()
    assert desk.module("clip", """
        const slow = new m.Clip({ generation: 1, kind: 2, total: 9, fps: 8 }), short = new m.Clip({ generation: 1, kind: 2, total: 5, fps: 16 });
        return [[0, 1, 2, 3, 16, 17, 32].map((i) => slow.ownIndex(i, 16)), [0, 4, 5, 32].map((i) => short.ownIndex(i, 16))];
    """) == [[0, 0, 1, 1, 8, 8, 8], [0, 4, 4, 4]]
    assert desk.module("player", """
        const { Clip } = await import('/rt/viewer/clip.js');
        const canvas = () => document.createElement('canvas'), quiet = () => {}; let shown;
        const player = new m.Player({ turbo: canvas(), full: canvas() },
            { onSwap: quiet, onWhole: quiet, onTick: quiet, onDraw: ({ turbo, full }) => { shown = [turbo?.at, full?.at]; }, playing: false });
        const make = async (kind, total, fps) => { const clip = new Clip({ generation: 1, kind, total, fps }, async (at) => Object.assign(
            await createImageBitmap(new ImageData(2, 2)), { at })); for (let i = 0; i < total; i += 1) await clip.add(i, i); return clip; };
        player.offer(await make(1, 33, 16)); player.offer(await make(2, 9, 8)); player.draw();
        const seen = [[player.clock.total, player.clock.fps]];
        for (const index of [0, 5, 16, 30]) { player.seek(index); seen.push(shown); }
        return seen;
    """) == [[33, 16], [0, 0], [5, 2], [16, 8], [30, 8]]
