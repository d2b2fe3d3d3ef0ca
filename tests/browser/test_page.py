"""What a person does at the desk, done in a real browser."""

import re
from http.client import HTTPConnection

import av
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from turbo_engine.recipe_files import read_recipe

from .conftest import POCKET_SHIPPED, App
from .desk import DeskPage

OPENING = "a penguin walking to the right on a beach at sunset"
NASTY = "<img src=x onerror=gotcha=3> ${window.gotcha=1} `${window.gotcha=2}` {{value}} \"'&amp;</textarea>"


@pytest.fixture
def desk(page, url) -> DeskPage:
    return DeskPage(page, url).open()


@pytest.fixture
def fake_desk(page, fake_app) -> DeskPage:
    return DeskPage(page, fake_app.url).open()


# -- live --------------------------------------------------------------------------------------------------------------

def test_the_page_opens_on_a_moving_clip_and_says_what_runs(desk):
    assert desk.data("shown-prompt") == OPENING and desk.prompt.input_value() == OPENING
    first = desk.data("index")
    desk.page.wait_for_function("(first) => document.querySelector('.desk').dataset.index !== first", arg=first)
    running = desk.running()
    assert {"model", "sampler", "precision", "device", "weights"} <= set(running) and running["sampler"] == "fixed-noise"
    assert desk.page.locator(".lamp").inner_text() == "Live"


def test_typing_deleting_pasting_and_composing_each_change_the_clip(desk):
    """Gradio's own text box sends nothing for Backspace, paste and composed text: that is why this one is ours."""
    seen = {desk.fingerprint()}

    def changed(prompt):
        assert desk.prompt.input_value() == prompt
        desk.settle(prompt)
        picture = desk.fingerprint()
        assert picture not in seen
        seen.add(picture)

    desk.prompt.click()
    desk.page.keyboard.press("Control+A")
    desk.page.keyboard.type("a robot", delay=20)
    changed("a robot")
    desk.page.keyboard.press("Backspace")
    changed("a robo")
    desk.page.keyboard.press("Control+Backspace")
    desk.page.keyboard.type("x")
    changed("a x")
    desk.prompt.evaluate("""(box) => { const data = new DataTransfer(); data.setData('text/plain', ' rocket');
        box.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true }));
        document.execCommand('insertText', false, ' rocket'); }""")
    changed("a x rocket")
    asked = desk.data("asked")
    keyboard = desk.page.context.new_cdp_session(desk.page)
    keyboard.send("Input.imeSetComposition", {"text": "ni", "selectionStart": 2, "selectionEnd": 2})
    assert desk.data("asked") == asked            # half-composed text asks for nothing
    keyboard.send("Input.insertText", {"text": "你"})
    changed("a x rocket你")


def test_cut_and_paste_with_the_keyboard(context, page, fake_app):
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    desk = DeskPage(page, fake_app.url).open()
    desk.prompt.click()
    page.keyboard.press("Control+A")
    page.keyboard.press("Control+X")
    page.locator(".message[data-tone=error]").wait_for()
    page.keyboard.press("Control+V")
    desk.settle(OPENING)


def test_thirty_fast_keys_end_on_the_last(desk):
    burst = " with a small red robot beside"
    assert len(burst) == 30
    desk.prompt.click()
    desk.page.keyboard.press("End")
    desk.page.keyboard.type(burst, delay=15)
    last = f"{OPENING}{burst}"
    desk.settle(last)
    desk.page.wait_for_timeout(300)
    assert desk.data("shown") == desk.data("asked") and desk.data("shown-prompt") == desk.prompt.input_value() == last
    assert desk.data("settled") == "true" and desk.data("rough") == "false"


def test_spaces_change_nothing(fake_desk):
    shown, asked = fake_desk.data("shown"), int(fake_desk.data("asked"))
    fake_desk.prompt.click()
    fake_desk.page.keyboard.press("End")
    fake_desk.page.keyboard.type("   ")
    fake_desk.settle()
    assert int(fake_desk.data("asked")) == asked + 3 and fake_desk.data("shown") == shown


def test_seed_dice_and_lock(fake_desk):
    page, seed = fake_desk.page, fake_desk.page.locator(".seed")
    before = fake_desk.fingerprint()
    fake_desk.prompt.press("End")
    page.keyboard.type("!")
    fake_desk.settle(f"{OPENING}!")
    assert seed.input_value() == "7"                        # locked from the start
    page.locator(".dice").click()
    assert seed.input_value() != "7"
    fake_desk.settle()
    assert fake_desk.fingerprint() != before
    page.locator(".lock").click()
    rolled = seed.input_value()
    fake_desk.prompt.press("Backspace")
    assert seed.input_value() != rolled
    fake_desk.settle(OPENING)
    seed.fill("7")
    fake_desk.settle()
    assert fake_desk.fingerprint() == before                # same words, same seed, same clip


def test_steps_and_sampler_are_asked_for_and_named(desk):
    page = desk.page
    page.locator(".steps label").nth(1).click()
    page.wait_for_function("document.querySelector('.side-turbo .side-facts').textContent.startsWith('2 steps')")
    page.locator(".advanced summary").click()
    page.locator(".sampler").select_option("ode")
    desk.settle()
    page.wait_for_function("document.querySelector('.running').textContent.includes('samplerode')")
    assert desk.running()["sampler"] == "ode"


# -- full --------------------------------------------------------------------------------------------------------------

def test_a_full_render_plays_beside_the_turbo_clip(desk):
    desk.choose_full_steps(10)
    desk.prompt.click()
    desk.render_full()
    page = desk.page
    assert page.locator(".side-full .side-facts").inner_text().startswith("10 steps ·")
    boxes = [page.locator(f".side-{side} .frame").bounding_box() for side in ("turbo", "full")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["width"] == boxes[1]["width"] > 300
    assert page.locator(".final-button").is_visible() and not page.locator(".final-progress").is_visible()


def test_both_sides_show_the_same_frame_while_playing(fake_desk):
    """The stand-in's full clip has the pixels of its turbo clip: any difference would be a difference of time."""
    fake_desk.choose_full_steps(10)
    fake_desk.render_full()
    seen = fake_desk.page.evaluate("""async () => {
        const [turbo, full] = [...document.querySelectorAll('.picture')], seen = new Set(); let apart = 0;
        for (let i = 0; i < 90; i += 1) {
            await new Promise(requestAnimationFrame);
            if (turbo.toDataURL() !== full.toDataURL()) apart += 1;
            seen.add(document.querySelector('.desk').dataset.index);
        }
        return [apart, seen.size];
    }""")
    assert seen[0] == 0 and seen[1] > 8


def test_five_seconds_of_playback_show_the_same_frame_on_both_sides_of_the_real_engine(page, real_app):
    """What each frame of each side looks like is learnt standing still; then, playing, both sides must always show one index."""
    desk = DeskPage(page, real_app.url).open()
    desk.choose_full_steps(10)
    desk.render_full()
    desk.page.wait_for_function("document.querySelector('.match-summary').textContent !== '' && !document.querySelector('.match-summary').textContent.startsWith('Measuring')")
    apart, seen = desk.page.evaluate("""async () => {
        const sides = ['turbo', 'full'].map((side) => document.querySelector(`.side-${side} .picture`)), scrub = document.querySelector('.scrub');
        const drawn = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        const known = sides.map(() => new Map());
        for (let index = 0; index <= Number(scrub.max); index += 1) {
            scrub.value = index;
            scrub.dispatchEvent(new Event('input'));
            await drawn();
            sides.forEach((side, i) => { const look = side.toDataURL(); known[i].set(look, [...(known[i].get(look) ?? []), index]); });
        }
        document.querySelector('.play').click();
        const seen = new Set(), until = performance.now() + 5000; let apart = 0;
        while (performance.now() < until) {
            await new Promise(requestAnimationFrame);
            const [turbo, full] = sides.map((side, i) => known[i].get(side.toDataURL()) ?? []);
            if (!turbo.some((index) => full.includes(index))) apart += 1;
            turbo.forEach((index) => seen.add(index));
        }
        return [apart, seen.size];
    }""")
    assert apart == 0 and seen > 8


def test_edits_come_between_a_full_render_which_goes_on_and_can_be_cancelled(fake_desk):
    page = fake_desk.page
    page.keyboard.press("Control+Enter")
    page.get_by_text(re.compile("Step [0-9]+ of 50")).wait_for()
    fake_desk.prompt.fill("a robot that no test made before")
    fake_desk.settle("a robot that no test made before")
    page.get_by_text(re.compile("Step [0-9]+ of 50")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Full render cancelled").wait_for()
    assert not page.locator(".side-full").is_visible() and page.locator(".final-button").is_enabled()


@pytest.mark.clock
def test_a_reload_in_the_middle_of_a_full_render_loses_nothing(fake_desk):
    page = fake_desk.page
    fake_desk.prompt.fill("a ship sailing to the right, which no test made before")
    page.locator(".seed").fill("4711")
    page.locator(".lock").click()
    fake_desk.settle("a ship sailing to the right, which no test made before")
    page.keyboard.press("Control+Enter")
    page.get_by_text(re.compile("Step [0-9]+ of 50")).wait_for()
    page.reload()
    page.get_by_text(re.compile("Step [0-9]+ of 50")).wait_for()
    page.locator(".side-full .save:not([hidden])").wait_for()
    fake_desk.settle("a ship sailing to the right, which no test made before")
    assert page.locator(".seed").input_value() == "4711" and page.locator(".lock").get_attribute("aria-pressed") == "false"
    page.reload()
    page.locator(".side-full .save:not([hidden])").wait_for()
    assert page.locator(".side-full .side-facts").inner_text().startswith("50 steps")


def test_the_full_clip_steps_aside_for_other_words_and_comes_back_with_its_own(fake_desk):
    fake_desk.choose_full_steps(10)
    fake_desk.render_full()
    page = fake_desk.page
    fake_desk.prompt.press("End")
    page.keyboard.type("!")
    fake_desk.settle(f"{OPENING}!")
    assert not page.locator(".side-full").is_visible()
    page.locator(".return").click()
    fake_desk.settle(OPENING)
    assert page.locator(".side-full").is_visible()
    assert fake_desk.fingerprint("full") == fake_desk.fingerprint("turbo")


# -- keeping -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("side", ["turbo", "full"])
def test_a_saved_clip_is_whole_and_carries_its_recipe(desk, side, tmp_path):
    if side == "full":
        desk.choose_full_steps(10)
        desk.render_full()
    with desk.page.expect_download() as download:
        desk.page.locator(f".side-{side} .save").click()
    assert download.value.suggested_filename == f"rushes-a-penguin-walking-to-the-right-on-a-beach-at-sun-seed7-{side}.mp4"
    path = tmp_path / "saved.mp4"
    download.value.save_as(path)
    with av.open(str(path), format="mp4") as video:
        stream = video.streams.video[0]
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
        assert len(frames) == desk.frames() and stream.average_rate == 16
        assert (stream.codec_context.width, stream.codec_context.height) == frames[0].shape[1::-1]
    if POCKET_SHIPPED or "fake" in desk.running()["device"]:
        assert len(frames) == 33 and frames[0].shape == (256, 256, 3)
    recipe = read_recipe(path)
    assert (recipe["prompt"], recipe["seed"], recipe["mode"]) == (OPENING, 7, side)
    assert recipe["num_steps"] == (4 if side == "turbo" else 10)
    assert desk.running()["weights"] == recipe["weights"]["student"][:8]


def test_the_running_app_refuses_strangers(fake_app):
    """The guard stands before the real server too; tests/test_guard.py has the whole matrix."""
    address = fake_app.url.removeprefix("http://").strip("/")
    socket = f"ws://{address}/rt/ws"
    line = HTTPConnection(address)
    line.request("GET", "/")
    cookie = {"Cookie": line.getresponse().headers["set-cookie"].partition(";")[0]}
    line.close()
    with connect(socket, origin=f"http://{address}", additional_headers=cookie) as ours:
        assert '"hello"' in ours.recv()
    with pytest.raises(InvalidStatus, match="403"):
        connect(socket, origin="http://evil.example", additional_headers=cookie)
    with pytest.raises(InvalidStatus, match="401"):
        connect(socket)
    for headers, status in (({}, 200), ({"Host": "evil.example"}, 403), ({"Origin": "null"}, 403)):
        line = HTTPConnection(address)
        line.request("GET", "/", headers=headers)
        assert line.getresponse().status == status
        line.close()


def test_a_clip_that_is_not_kept_is_a_plain_404(fake_desk):
    for path in ("x", "..%2f..%2fapp.py", "%2e%2e", "x" * 500):
        assert fake_desk.page.request.get(f"{fake_desk.url}rt/clip/{path}.mp4").status == 404


# -- words -------------------------------------------------------------------------------------------------------------

def test_code_in_a_prompt_is_text(fake_desk):
    page = fake_desk.page
    fake_desk.prompt.fill(NASTY)
    fake_desk.settle(" ".join(NASTY.split()))
    page.locator(".words p").first.wait_for()
    assert fake_desk.prompt.input_value() == NASTY
    assert page.evaluate("window.gotcha") is None and page.locator(".desk img[src]:not([src^='/rt/history/'])").count() == 0
    fake_desk.choose_full_steps(10)
    fake_desk.render_full()
    fake_desk.prompt.fill("a robot")
    fake_desk.settle("a robot")
    assert page.locator(".return").inner_text().count("<img src=x onerror=gotcha=3> ${window") == 1
    with page.expect_download() as download:
        page.locator(".side-turbo .save").click()
    assert download.value.suggested_filename == "rushes-a-robot-seed7-turbo.mp4"
    assert page.evaluate("window.gotcha") is None and page.locator(".desk img[src]:not([src^='/rt/history/'])").count() == 0


def test_no_words_is_said_kindly_and_the_old_clip_plays_on(fake_desk):
    page = fake_desk.page
    fake_desk.prompt.fill("")
    error = page.locator(".message[data-tone=error]")
    error.wait_for()
    assert "expected a few words" in error.inner_text()
    assert fake_desk.data("shown-prompt") == OPENING and fake_desk.data("stale") == "true"
    index = fake_desk.data("index")
    page.wait_for_function("(index) => document.querySelector('.desk').dataset.index !== index", arg=index)
    fake_desk.prompt.fill("a robot")
    fake_desk.settle("a robot")
    assert page.locator(".message").inner_text() == ""


def test_engine_errors_are_one_line_of_text(fake_desk):
    page = fake_desk.page
    fake_desk.prompt.fill("raise a turbo error")
    page.get_by_text("expected a picture, got <b>nothing</b> ${1}; try another seed").wait_for()
    fake_desk.prompt.fill("raise a bug")
    page.get_by_text("ZeroDivisionError").wait_for()
    fake_desk.prompt.fill("a robot")
    fake_desk.settle("a robot")


@pytest.mark.parametrize("word, said", [("qenguin", "was not taught “qenguin”"), ("pengin", "“pengin” is read as")])
def test_a_word_that_is_not_taught_is_named_and_a_click_mends_it(fake_desk, word, said):
    fake_desk.prompt.fill(f"a {word} spinning")
    fake_desk.page.get_by_text(said).wait_for()
    fake_desk.page.locator(".nearest .chip", has_text="penguin").first.click()
    assert fake_desk.prompt.input_value() == "a penguin spinning"
    fake_desk.settle("a penguin spinning")
    fake_desk.page.wait_for_function("document.querySelector('.words').childElementCount === 0")


def test_another_language_is_answered_kindly_and_not_word_by_word(fake_desk):
    fake_desk.prompt.fill("ein Hund am Strand")
    fake_desk.page.get_by_text("This model reads English words only").wait_for()
    assert "was not taught" not in fake_desk.page.locator(".words").inner_text()


def test_what_the_seed_adds_is_said_and_can_be_kept(fake_desk):
    page, added = fake_desk.page, fake_desk.page.locator(".settled")
    assert not added.is_visible()                                  # the opening shot says it all
    page.locator(".lock").click()                                  # every word typed is a new seed, but not this
    fake_desk.prompt.fill("a wug and an owl dancing, zoom in")
    added.get_by_text("The seed adds").wait_for()
    place, scene = re.findall("“(.+?)”", added.inner_text())
    seed = page.locator(".seed").input_value()
    page.get_by_text("Write it out").click()
    expected = f"a wug and an owl {place} dancing {scene}, zoom in"
    assert fake_desk.prompt.input_value() == expected and page.locator(".seed").input_value() == seed
    fake_desk.settle(expected)
    added.wait_for(state="hidden")
    page.get_by_text("was not taught “wug”").wait_for()
    fake_desk.prompt.fill(" ")                                     # nothing is left to say something about
    page.get_by_text("was not taught “wug”").wait_for(state="hidden")


def test_known_words_swap_into_the_shot(fake_desk):
    page = fake_desk.page
    page.get_by_text("What this model knows").click()

    def pick(group, name):
        page.locator(f".world-group:has(h3:text-is('{group}')) .chip").get_by_text(name, exact=True).click()
        return fake_desk.prompt.input_value()

    assert pick("subjects", "octopus") == OPENING.replace("a penguin", "an octopus")
    assert pick("cameras", "pan left") == "an octopus walking to the right on a beach at sunset, the camera pans left"
    assert pick("motions", "spinning") == "an octopus spinning on a beach at sunset, the camera pans left"
    assert pick("scenes", "underwater") == "an octopus spinning underwater, the camera pans left"
    assert pick("places", "right") == "an octopus on the right spinning underwater, the camera pans left"
    fake_desk.settle("an octopus on the right spinning underwater, the camera pans left")


def test_examples_are_a_click_away(fake_desk):
    chip = fake_desk.page.locator(".examples .chip").nth(1)
    chip.click()
    fake_desk.settle(chip.inner_text())


# -- hands and eyes ----------------------------------------------------------------------------------------------------

def test_keys_play_and_step_but_never_in_the_prompt(fake_desk):
    page = fake_desk.page
    fake_desk.prompt.fill("a")
    page.keyboard.type(" /r g")
    assert fake_desk.prompt.input_value() == "a /r g" and page.locator(".seed").input_value() == "7"
    page.keyboard.press("Escape")
    page.keyboard.press("Space")
    page.get_by_role("button", name="Play", exact=True).wait_for()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert fake_desk.data("index") == "6" and page.locator(".count").inner_text() == "7 / 33"
    page.keyboard.press("End")
    page.keyboard.press(".")
    page.keyboard.press("ArrowRight")
    assert fake_desk.data("index") == "0"
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.className") == "prompt"


def test_the_place_is_kept_from_clip_to_clip(fake_desk):
    page = fake_desk.page
    page.locator(".scrub").evaluate("(scrub) => { scrub.value = 20; scrub.dispatchEvent(new Event('input')); }")
    fake_desk.prompt.fill("a robot")
    fake_desk.settle("a robot")
    assert fake_desk.data("index") == "20"


def test_nothing_moves_by_itself_where_motion_is_unwanted(chromium, fake_app):
    context = chromium.new_context(reduced_motion="reduce")
    desk = DeskPage(context.new_page(), fake_app.url).open()
    assert desk.page.locator(".play").get_attribute("aria-label") == "Play"
    index = desk.data("index")
    desk.page.wait_for_timeout(300)
    assert desk.data("index") == index
    context.close()


@pytest.mark.parametrize("width, height", [(1280, 800), (1920, 1080), (900, 700), (380, 800)])
def test_the_page_fits(page, fake_app, width, height):
    page.set_viewport_size({"width": width, "height": height})
    desk = DeskPage(page, fake_app.url).open()
    desk.choose_full_steps(10)
    desk.render_full()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width > 820:
        assert page.evaluate("document.documentElement.scrollHeight") <= height
    right = page.evaluate("Math.max(...[...document.querySelectorAll('.desk :is(button, input, textarea, canvas, a)')]"
                          ".filter((e) => e.checkVisibility() && !e.closest('.examples, .strip')).map((e) => e.getBoundingClientRect().right))")
    assert right <= width


def test_every_control_has_a_name(fake_desk):
    nameless = fake_desk.page.evaluate("""() => [...document.querySelectorAll('.desk :is(button, input, select, textarea, a[href])')]
        .filter((e) => !(e.getAttribute('aria-label') || e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML)""")
    assert nameless == []


def test_a_lost_connection_is_told_and_mended(page, context, tmp_path):
    """Not the page fixture's quiet console: a refused connection is an error there, and rightly."""
    app = App("-m", "tests.browser.fake_app", "0", str(tmp_path))
    own = context.new_page()
    desk = DeskPage(own, app.url).open()
    port = app.url.rsplit(":", 1)[1].strip("/")
    assert app.stop() == 0
    own.get_by_text("Connection lost").wait_for()
    again = App("-m", "tests.browser.fake_app", port, str(tmp_path))
    desk.prompt.fill("a robot")
    desk.settle("a robot")
    assert own.locator(".lamp").inner_text() == "Live"
    own.close()
    assert again.stop() == 0
