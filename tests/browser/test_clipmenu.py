"""Size and length: chosen from the preset's menu, kept with the shot, shown in their own shape, refused kindly where a preset has no such clip."""
import pytest

from turbo_engine.fake import FakeEngine
from turbo_engine.media import encode_mp4_bytes
from turbo_engine.types import Request

from .desk import DeskPage


@pytest.fixture
def desk(page, fake_app):
    return DeskPage(page, fake_app.url).open()


def aspect(desk: DeskPage, selector: str) -> float:
    box = desk.page.locator(selector).bounding_box()
    return box["width"] / box["height"]


def choose(desk: DeskPage, prompt: str, size: str, frames: int) -> None:
    desk.page.locator(".size").select_option(size)
    desk.page.locator(".length").select_option(str(frames))
    desk.prompt.fill(prompt)
    desk.settle(prompt)


def picture_size(desk: DeskPage, side: str = "turbo") -> list[int]:
    return desk.page.evaluate("(side) => { const c = document.querySelector(`.side-${side} .picture`); return [c.width, c.height]; }", side)


def test_another_size_and_length_are_asked_for_and_shown_in_their_own_shape(desk):
    page = desk.page
    assert page.locator(".length").locator("option").all_inner_texts() == ["1.1 s · 17", "2.1 s · 33"]
    assert aspect(desk, ".side-turbo .frame") == pytest.approx(1, abs=0.01)
    page.locator(".size").select_option("320x192")
    page.wait_for_function("document.querySelector('.side-turbo .picture').width === 320")
    desk.settle()
    assert picture_size(desk) == [320, 192] and desk.frames() == 33 and aspect(desk, ".side-turbo .frame") == pytest.approx(320 / 192, abs=0.02)
    page.locator(".length").select_option("17")
    page.wait_for_function("document.querySelector('.scrub').max === '16'")
    choose(desk, "a tall robot", "192x320", 17)
    assert picture_size(desk) == [192, 320] and aspect(desk, ".side-turbo .frame") == pytest.approx(0.6, abs=0.02)
    assert page.evaluate("document.documentElement.scrollHeight") <= 800


def test_a_full_render_has_the_size_and_another_size_is_another_shot(desk):
    page = desk.page
    desk.choose_full_steps(10)
    choose(desk, "a robot of three shapes", "320x192", 17)
    desk.render_full()
    assert picture_size(desk, "full") == [320, 192]
    boxes = [page.locator(f".side-{side} .frame").bounding_box() for side in ("turbo", "full")]
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["width"] == boxes[1]["width"]
    page.locator(".match-summary:has-text('same')").wait_for()
    page.locator(".size").select_option("256x256")
    page.locator(".side-full").wait_for(state="hidden")
    desk.settle()
    page.locator(".return").click()
    page.locator(".side-full").wait_for()
    assert page.locator(".size").input_value() == "320x192"


def test_the_seam_of_a_wipe_stands_under_the_pointer_in_a_wide_picture(desk):
    page = desk.page
    desk.choose_full_steps(10)
    choose(desk, "a wide robot unlike itself", "320x192", 17)
    desk.render_full()
    page.locator(".mark").click()
    page.keyboard.press("w")
    frame = page.locator(".pair .frame").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + 20)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] / 4, frame["y"] + 20, steps=4)
    page.mouse.up()
    seam = page.locator(".seam").bounding_box()
    assert seam["x"] + seam["width"] / 2 == pytest.approx(frame["x"] + frame["width"] / 4, abs=2)
    page.keyboard.press("k")
    columns = page.evaluate("""async () => { await new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)));
        const row = (s) => { const c = document.querySelector(s); return c.getContext('2d').getImageData(0, 96, c.width, 1).data; };
        const pair = row('.pair-picture'), first = row('.side-turbo .picture'); let same = 0;
        while (same < 320 && [0, 1, 2].every((i) => pair[4 * same + i] === first[4 * same + i])) same += 1; return same; }""")
    assert columns == pytest.approx(80, abs=2)


def test_a_click_in_the_history_and_a_reload_bring_size_and_length_back(desk):
    page = desk.page
    choose(desk, "a short wide robot", "320x192", 17)
    page.locator(".shot-open[title^='a short wide robot']").wait_for()
    choose(desk, "a robot", "256x256", 33)
    page.locator(".shot-open[title^='a short wide robot']").last.click()       # the oldest: where machines are slow, it was made in the next size too
    desk.settle("a short wide robot")
    assert (page.locator(".size").input_value(), page.locator(".length").input_value()) == ("320x192", "17")
    page.reload()
    desk.settle("a short wide robot")
    assert (page.locator(".size").input_value(), page.locator(".length").input_value()) == ("320x192", "17") and picture_size(desk) == [320, 192]


def dropped(desk: DeskPage, recipe: dict) -> None:
    """Drop a file with such a recipe on the page."""
    *_, made = FakeEngine().generate(Request("a fox that was dropped", 3, num_steps=2))
    data = list(encode_mp4_bytes(made.frames[:2], 16, {**made.recipe, **recipe}))
    desk.page.evaluate("""(data) => { const files = new DataTransfer(); files.items.add(new File([new Uint8Array(data)], 'clip.mp4'));
        document.querySelector('.desk').dispatchEvent(new DragEvent('drop', { dataTransfer: files, bubbles: true, cancelable: true })); }""", data)


def test_a_dropped_clip_brings_its_size_and_one_that_cannot_be_made_is_told(desk):
    page = desk.page
    dropped(desk, {"width": 192, "height": 320, "num_frames": 21})
    desk.settle("a fox that was dropped")
    assert picture_size(desk) == [192, 320] and desk.frames() == 21           # not on the menu, but possible
    dropped(desk, {"width": 512, "height": 512, "num_frames": 81, "prompt": "a fox that is too large"})
    page.get_by_text("This model does not make 512 × 512 and 81 frames; it stays at 192 × 320, 21 frames.").wait_for()
    desk.settle("a fox that is too large")


def test_a_size_that_is_on_no_menu_is_refused_by_the_engine_in_plain_words(desk):
    page = desk.page
    page.locator(".size").evaluate("(menu) => { menu.options[1].value = '1024x64'; menu.value = '1024x64'; menu.dispatchEvent(new Event('change')); }")
    page.get_by_text("size: expected one of 256x256, 320x192, 192x320, got 1024x64; try 256x256").wait_for()


def test_a_model_of_one_size_says_so(page, real_app):
    desk = DeskPage(page, real_app.url).open()
    sizes = page.locator(".size").locator("option").count()
    assert page.locator(".size").is_disabled() == (sizes == 1)
    assert page.locator(".length").locator("option").count() >= 1 and desk.frames() == int(page.locator(".length").input_value())
