"""Playback and live controls: shuttle, loop, pause live, the sheet of keys, what a full render keeps out."""
import json
import re

import pytest

from .desk import DeskPage


@pytest.fixture
def desk(page, fake_app):
    desk = DeskPage(page, fake_app.url).open()
    page.locator(".mark").click()
    return desk


def test_shuttle_and_loop_of_the_clock(desk):
    seen = desk.module("clock", """
        const clock = new m.Clock({ fps: 10, total: 10 });
        clock.play(0); const out = [clock.index(250)];
        clock.shuttle(1, 250); out.push(clock.speed, clock.index(450));
        clock.shuttle(-1, 450); out.push(clock.speed, clock.index(550), clock.index(1150));
        clock.pause(550); out.push(clock.speed, clock.playing);
        clock.loops = false; clock.seek(7, 600); clock.play(600); out.push(clock.index(5000));
        clock.rest(5000); out.push(clock.playing);
        clock.play(6000); out.push(clock.index(6000), clock.index(6100));
        return out;""")
    assert seen == [2, 2, 6, -1, 5, 9, 1, False, 9, False, 0, 1]


def test_j_k_l_and_loop_by_hand(desk):
    page = desk.page
    page.keyboard.press("k")
    page.locator(".play:not([data-playing=true])").wait_for()
    page.keyboard.press("End")
    page.locator(".loop").click()
    page.keyboard.press("l")
    page.wait_for_function("document.querySelector('.desk').dataset.index === '32' && document.querySelector('.play').dataset.playing === 'false'")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.wait_for_function("document.querySelector('.desk').dataset.index === '0' && document.querySelector('.play').dataset.playing === 'false'")


def test_a_trimmed_part_plays_round_and_round_until_it_is_cleared(desk):
    page = desk.page
    page.keyboard.press("Home")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("[")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("]")
    clear = page.get_by_role("button", name="Trimmed to frames 6 to 10: play all again")
    assert clear.text_content() == "6–10×"
    page.keyboard.press("End")                                          # what is outside can be looked at
    assert desk.data("index") == "32"
    page.keyboard.press(" ")
    seen = page.evaluate("""async () => { const seen = new Set(), until = performance.now() + 1500;
        while (performance.now() < until) { await new Promise(requestAnimationFrame); seen.add(Number(document.querySelector('.desk').dataset.index)); }
        seen.delete(32); return [...seen].sort((a, b) => a - b); }""")
    assert seen == [5, 6, 7, 8, 9]
    clear.click()
    assert not page.locator(".untrim").is_visible()
    page.wait_for_function("Number(document.querySelector('.desk').dataset.index) > 20")
    page.keyboard.press("k")
    page.locator(".scrub").focus()                                      # from the slider too
    page.keyboard.press("End")
    page.keyboard.press("[")
    assert page.locator(".untrim").text_content() == "33–33×"
    page.keyboard.press("\\")
    assert not page.locator(".untrim").is_visible()


def test_live_can_be_paused_and_the_last_words_come_when_it_goes_on(desk):
    page = desk.page
    page.keyboard.press("p")
    page.get_by_role("button", name="Resume live").wait_for()
    before = desk.data("asked")
    desk.prompt.fill("a robot")
    desk.prompt.fill("a robot made while paused")
    page.wait_for_timeout(300)
    assert desk.data("asked") == before
    page.get_by_role("button", name="Resume live").click()
    desk.settle("a robot made while paused")
    assert int(desk.data("asked")) == int(before) + 1


def test_the_sheet_of_keys_opens_and_closes(desk):
    page = desk.page
    page.keyboard.press("?")
    page.get_by_role("heading", name="Keys").wait_for()
    assert all(key.strip() for key in page.locator(".keys kbd").all_inner_texts())     # the shell's template eats a backslash
    page.keyboard.press("Escape")
    assert not page.locator(".keys").is_visible()
    page.locator(".keys-open").click()
    page.get_by_role("button", name="Close").last.click()
    assert not page.locator(".keys").is_visible()
    desk.prompt.click()
    page.keyboard.type("?")
    assert not page.locator(".keys").is_visible()


def test_what_a_full_render_keeps_out_is_part_of_its_recipe_and_comes_back(desk):
    page = desk.page
    desk.choose_full_steps(10)
    page.get_by_label("Keep out of the full render").fill("clouds")
    desk.prompt.fill("a robot that leaves something out")
    desk.settle("a robot that leaves something out")
    desk.render_full()
    page.locator(".shot[data-mode=full] .shot-open[title^='a robot that leaves']").wait_for()
    href = page.locator(".side-full .save").get_attribute("href")
    data = page.request.get(desk.url.rstrip("/") + href, headers={"Sec-Fetch-Site": "same-origin"}).body()
    assert json.loads(re.search(rb'\{"schema".*?\}(?=[^,}\]])', data).group())["negative_prompt"] == "clouds"
    page.get_by_label("Keep out of the full render").fill("")
    page.locator(".shot[data-mode=full] .shot-open[title^='a robot that leaves']").click()
    page.wait_for_function("document.querySelector('.negative').value === 'clouds'")


def test_the_sitting_has_its_own_budget(desk):
    assert desk.module("facts", "return [m.percentile([3, 1, 2], 0.5), m.percentile([5], 0.95), m.percentile([...Array(100).keys()], 0.95)];") == [2, 5, 94]
    for i in range(2):
        desk.prompt.fill(f"a robot for the budget {i}")
        desk.settle(f"a robot for the budget {i}")
    assert re.match(r"This sitting, \d+ clips: keystroke to picture p50 .+, p95 .+; whole clip p50 .+, p95 .+", desk.page.locator(".times").get_attribute("title"))


def test_it_installs_as_an_app(desk):
    """What Chromium itself asks of an app: no complaint about manifest or icon."""
    session = desk.page.context.new_cdp_session(desk.page)
    manifest = session.send("Page.getAppManifest")
    assert manifest["url"].endswith("/manifest.json") and manifest["errors"] == []
    errors = {error["errorId"] for error in session.send("Page.getInstallabilityErrors")["installabilityErrors"]}
    assert errors <= {"in-incognito"}                           # a test's browser context is one
