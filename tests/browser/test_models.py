"""Another preset, chosen on the page: what is offered, how its loading is told, what stays, and the way back where it fails."""
import re
import sys
from pathlib import Path

import pytest

from turbo_engine.fake import FakeEngine
from turbo_engine.media import encode_mp4_bytes
from turbo_engine.types import Request

from .conftest import App
from .desk import DeskPage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tiny_wan import write_wan_preset  # noqa: E402



class ModelsPage(DeskPage):
    def choose(self, name: str) -> "ModelsPage":
        self.page.locator(".model-open").click()
        self.page.get_by_role("button", name=re.compile(f"^{name} ")).click()
        return self

    def until_runs(self, name: str) -> None:
        self.page.wait_for_function("(name) => document.querySelector('.running').textContent.includes('model' + name) && document.querySelector('.lamp-text').textContent === 'Live'",
                                    arg=name, timeout=90_000)


@pytest.fixture
def app(tmp_path_factory):
    app = App("-m", "tests.browser.fake_app", "0", str(tmp_path_factory.mktemp("models")))
    yield app
    assert app.stop() == 0, "".join(app.lines)


@pytest.fixture
def desk(page, app):
    return ModelsPage(page, app.url).open()


def watch(desk: DeskPage, selector: str) -> None:
    """Keep what a line of the page says from now on, in window.told."""
    desk.page.evaluate("""(selector) => { const line = document.querySelector(selector); window.told = [line.textContent];
        new MutationObserver(() => told.push(line.textContent)).observe(line, { childList: true, characterData: true, subtree: true }); }""", selector)


def test_another_model_is_loaded_with_its_progress_told_and_prompt_and_seed_kept(desk):
    page = desk.page
    desk.prompt.fill("a robot that stays")
    page.locator(".seed").fill("4711")
    desk.settle("a robot that stays")
    before = desk.data("shown")
    watch(desk, ".message")
    desk.choose("wide")
    page.get_by_text("Loading wide", exact=True).wait_for()
    page.wait_for_function("""(before) => document.querySelector('.message').textContent.includes('Reading the networks, 1.2 of 2.4 GB')
        && document.querySelector('.final-button').disabled && document.querySelector('.desk').dataset.shown === before""",
                           arg=before)                      # the old clip plays on
    desk.until_runs("wide")
    desk.settle("a robot that stays")
    assert page.locator(".seed").input_value() == "4711" and desk.frames() == 17
    assert page.evaluate("[...document.querySelectorAll('.side-turbo .picture')].map((c) => [c.width, c.height])") == [[320, 192]]
    assert (page.locator(".size").input_value(), page.locator(".model-open").inner_text()) == ("320x192", "wide")
    assert "Warming up" in page.evaluate("told") and page.locator(".message").inner_text() == ""
    desk.choose("pocket")
    desk.until_runs("pocket")
    desk.settle("a robot that stays")
    assert desk.frames() == 33 and page.locator(".seed").input_value() == "4711"


def test_one_whose_weights_are_missing_can_be_read_about_and_not_chosen(desk):
    page = desk.page
    page.locator(".mark").click()
    page.keyboard.press("m")
    far = page.get_by_role("button", name=re.compile("^far "))
    assert "turbo network (2.84 GB). Start the app with --download." in far.inner_text() and far.get_attribute("aria-disabled") == "true"
    assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"       # by keyboard from there on
    far.click(force=True)
    assert page.locator(".models").is_visible() and page.locator(".lamp").inner_text() == "Live"
    page.keyboard.press("Escape")
    assert not page.locator(".models").is_visible()
    desk.settle()


def test_one_that_does_not_load_says_why_and_the_old_one_is_a_click_away_also_after_a_reload(desk):
    page = desk.page
    desk.choose("broken")
    page.locator(".message", has_text="The model could not be loaded: turbo.safetensors: expected a whole file, found one cut short; get it again").wait_for()
    assert page.locator(".lamp").inner_text() == "No model"
    page.reload()
    page.get_by_role("button", name="Back to pocket").click()
    desk.until_runs("pocket")
    desk.settle()
    assert page.locator(".message").inner_text() == ""


def test_a_full_render_is_stopped_and_says_so_and_the_page_beside_follows(desk, context):
    page, beside = desk.page, DeskPage(context.new_page(), desk.url).open()
    page.bring_to_front()
    desk.prompt.fill("a robot that is given up")
    desk.settle("a robot that is given up")
    page.keyboard.press("Control+Enter")
    page.get_by_text(re.compile("Step [0-9]+ of 50")).wait_for()
    desk.choose("wide")
    desk.until_runs("wide")
    assert page.locator(".message").inner_text() == "Another model was chosen, and the full render was stopped."
    assert page.locator(".final-button").is_enabled() and not page.locator(".side-full").is_visible()
    beside.page.bring_to_front()
    beside.page.wait_for_function("document.querySelector('.side-turbo .picture').width === 320")
    beside.settle()
    beside.page.close()


def test_a_clip_of_another_model_stands_beside_this_ones_and_offers_its_model(context, app):
    """Not the page fixture's quiet console: two shapes are not measured, which is an error there."""
    page = context.new_page()
    desk = ModelsPage(page, app.url).open()
    desk.prompt.fill("a robot of pocket's")
    desk.settle("a robot of pocket's")
    first = desk.fingerprint()
    shot = page.locator(".shot", has=page.locator(".shot-open[title^='a robot of pocket']"))
    shot.wait_for()
    desk.choose("wide")
    desk.until_runs("wide")
    desk.prompt.fill("a ship of the wide one")
    desk.settle("a ship of the wide one")
    shot.hover()
    shot.get_by_role("button", name="Compare as A").click()
    page.locator(".side-a").wait_for()
    page.wait_for_function("document.querySelector('.side-a .picture').width === 256")
    page.keyboard.press("Escape")
    shot.locator(".shot-open").click()
    page.get_by_role("button", name="Switch to pocket").click()
    desk.until_runs("pocket")
    desk.settle("a robot of pocket's")
    assert desk.fingerprint() == first and desk.prompt.input_value() == "a robot of pocket's"
    page.close()


def test_a_dropped_clip_brings_its_model_with_it_also_where_the_connection_is_lost_meanwhile(page, app):
    page.add_init_script("""window.sockets = []; const Plain = WebSocket;
        window.WebSocket = class extends Plain { constructor(...given) { super(...given); sockets.push(this); } };""")
    desk, held = ModelsPage(page, app.url).open(), []
    page.route("**/rt/preset", lambda route: held.append(route))
    *_, made = FakeEngine().generate(Request("a fox that was dropped", 3, num_steps=2))
    data = list(encode_mp4_bytes(made.frames[:2], 16, {**made.recipe, "preset": "wide", "width": 320, "height": 192, "num_frames": 17}))
    with page.expect_request("**/rt/preset"):
        page.evaluate("""(data) => { const files = new DataTransfer(); files.items.add(new File([new Uint8Array(data)], 'clip.mp4'));
            document.querySelector('.desk').dispatchEvent(new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true })); }""", data)
    watch(desk, ".lamp-text")
    page.evaluate("sockets.at(-1).close()")
    page.wait_for_function("told.includes('Connection lost') && told.at(-1) === 'Live'")      # on the model before: the choice is on its way
    held[0].continue_()
    desk.until_runs("wide")
    desk.settle("a fox that was dropped")
    assert page.evaluate("sockets.length") == 2
    assert page.locator(".seed").input_value() == "3" and page.locator(".steps :checked").get_attribute("value") == "2"


def test_the_real_app_goes_from_one_family_to_another_and_back(page, tmp_path):
    """From Wan's shape on tiny random weights to the shipped model, each in its own process."""
    app = App("app.py", "--preset", str(write_wan_preset(tmp_path)), "--port", "0", "--no-browser", "--data-dir", str(tmp_path / "data"))
    try:
        desk = ModelsPage(page, app.url).open()
        assert desk.frames() == 9
        page.locator(".model-open").click()
        why = page.get_by_role("button", name=re.compile("^wan2.2-i2v-a14b-720p ")).inner_text()
        assert "turbo high-noise network" in why and "--download" in why
        page.keyboard.press("Escape")
        desk.choose("pocket")
        desk.until_runs("pocket")
        desk.settle()
        assert desk.frames() == 33 and page.locator(".world").is_visible()
        desk.choose("tiny-wan2.1")
        desk.until_runs("tiny-wan2.1")
        desk.settle()
        assert desk.frames() == 9 and not page.locator(".world").is_visible()
        page.close()
    finally:
        assert app.stop() == 0, "".join(app.lines)
