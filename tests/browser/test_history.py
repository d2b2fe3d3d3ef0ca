"""The filmstrip, as a person uses it: what was made is there, comes back with a click, survives reload and restart."""
import pytest

from .conftest import App
from .desk import DeskPage

pytestmark = pytest.mark.timeout(180)
PROMPTS = ("a robot", "a ship sailing to the right", "a penguin in the snow")


@pytest.fixture
def own(context, tmp_path):
    """An app with a data folder of its own, and a page on it that has made PROMPTS."""
    app = App("-m", "tests.browser.fake_app", "0", str(tmp_path))
    desk = DeskPage(context.new_page(), app.url).open()
    for prompt in PROMPTS:
        desk.prompt.fill(prompt)
        desk.settle(prompt)
    wait_for_shots(desk, 3)                                     # nobody asked for the opening shot
    yield desk, app, tmp_path
    desk.page.close()
    app.stop()


def wait_for_shots(desk, count: int) -> None:
    desk.page.wait_for_function("(n) => document.querySelectorAll('.shot').length === n", arg=count)


def titles(desk) -> list[str]:
    return [title.split("\n")[0] for title in desk.page.locator(".shot-open").evaluate_all("all => all.map((e) => e.title)")]


def test_clips_are_listed_newest_first_and_a_click_has_one_back(own):
    desk, *_ = own
    assert titles(desk)[:3] == list(reversed(PROMPTS))
    assert desk.page.locator(".shot[data-shown=true]").count() == 1
    desk.page.locator(".shot-open").nth(2).click()
    desk.settle("a robot")
    assert desk.prompt.input_value() == "a robot"
    assert desk.page.locator(".shot[data-shown=true] .shot-open").get_attribute("title").startswith("a robot\n")


def test_the_history_outlives_a_restart_and_full_renders_come_back_as_a_pair(own, context):
    desk, app, folder = own
    desk.choose_full_steps(10)
    desk.render_full()
    wait_for_shots(desk, 4)
    before = titles(desk)
    assert app.stop() == 0
    again = App("-m", "tests.browser.fake_app", "0", str(folder))
    fresh = DeskPage(context.new_page(), again.url).open()
    try:
        wait_for_shots(fresh, 4)
        assert titles(fresh) == before
        fresh.page.locator(".shot[data-mode=full] .shot-open").click()
        fresh.page.locator(".side-full .save:not([hidden])").wait_for()
        fresh.settle(PROMPTS[-1])
        assert fresh.page.locator(".side-full .side-facts").inner_text().startswith("10 steps")
        assert fresh.data("pair") == "true" and fresh.page.locator(".full-steps").input_value() == "10"
    finally:
        fresh.page.close()
        assert again.stop() == 0


def test_search_star_delete_and_undo(own):
    desk, *_ = own
    page = desk.page
    first = page.locator(".shot").nth(1)
    first.hover()
    first.locator(".shot-star").click()
    page.locator(".history-starred").click()
    wait_for_shots(desk, 1)
    assert titles(desk) == [PROMPTS[1]]
    page.locator(".history-starred").click()
    wait_for_shots(desk, 3)
    page.locator(".history-search").fill("PENGUIN snow")
    wait_for_shots(desk, 1)
    page.locator(".history-search").fill("nothing like this")
    page.get_by_text("Nothing in the history fits.").wait_for()
    page.locator(".history-search").fill("")
    wait_for_shots(desk, 3)
    page.locator(".shot-open").nth(0).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Delete")
    wait_for_shots(desk, 2)
    assert PROMPTS[1] not in titles(desk)
    page.get_by_role("button", name="Undo").click()
    wait_for_shots(desk, 3)
    assert titles(desk)[1] == PROMPTS[1] and page.locator(".shot").nth(1).locator(".shot-star[aria-pressed=true]").count() == 1


def test_a_prompt_with_code_in_it_is_text_in_the_strip(own):
    desk, *_ = own
    nasty = "${alert(1)} <img src=x onerror=alert(1)>"
    desk.prompt.fill(nasty)
    desk.settle(nasty)
    wait_for_shots(desk, 4)
    assert titles(desk)[0] == nasty and desk.page.locator(".strip img[src='x']").count() == 0
