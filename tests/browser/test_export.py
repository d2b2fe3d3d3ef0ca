"""Export and drop, as a person does them."""
import io

import av

from .desk import DeskPage


def dropped(page, data: bytes, name: str) -> None:
    """Let a file fall on the page."""
    page.evaluate("""async ([bytes, name]) => {
        const drag = new DataTransfer(); drag.items.add(new File([new Uint8Array(bytes)], name));
        const desk = document.querySelector('.desk');
        for (const kind of ['dragenter', 'dragover', 'drop']) desk.dispatchEvent(new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: drag }));
    }""", [list(data), name])


def test_export_then_drop_restores_the_shot(page, fake_app, tmp_path):
    desk = DeskPage(page, fake_app.url).open()
    desk.prompt.fill("a ship that is exported")
    page.locator(".seed").fill("99")
    desk.settle("a ship that is exported")
    page.locator(".mark").click()
    page.keyboard.press("e")
    page.get_by_role("heading", name="Export").wait_for()
    page.get_by_text("About ").wait_for()
    assert page.locator("[name=export-what][value=second]").is_disabled()
    page.get_by_label("Kind of file").select_option("mp4")
    page.locator(".export").get_by_label("Size").select_option("2")
    page.get_by_label("Last frame").fill("17")
    with page.expect_download() as download:
        page.locator(".export-go").click()
    path = tmp_path / "clip.mp4"
    download.value.save_as(path)
    page.get_by_text("Saved rushes-a-ship").wait_for()
    page.keyboard.press("Escape")
    with av.open(str(path)) as video:
        assert video.streams.video[0].width == 512 and sum(1 for _ in video.decode(video=0)) == 17

    desk.prompt.fill("another shot")
    page.locator(".seed").fill("1")
    desk.settle("another shot")
    dropped(page, path.read_bytes(), "clip.mp4")
    desk.settle("a ship that is exported")
    assert desk.prompt.input_value() == "a ship that is exported" and page.locator(".seed").input_value() == "99"


def test_a_foreign_file_is_refused_and_changes_nothing(context, fake_app):
    """Not the page fixture's quiet console: a refused request is an error there, and rightly."""
    own = context.new_page()
    desk = DeskPage(own, fake_app.url).open()
    before = desk.prompt.input_value()
    dropped(own, b"not a clip", "holiday.mp4")
    own.locator(".message[data-tone=error]").wait_for()
    assert desk.prompt.input_value() == before
    own.close()


def test_a_pair_is_exported_side_by_side_and_trim_keys_set_the_part(page, fake_app):
    desk = DeskPage(page, fake_app.url).open()
    desk.choose_full_steps(10)
    desk.render_full()
    page.locator(".mark").click()
    page.keyboard.press("Home")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("[")
    assert page.locator(".untrim").text_content() == "4–33×"
    page.locator(".export-open").click()
    page.locator(".export").get_by_text("Side by side").click()
    assert page.get_by_label("First frame").input_value() == "4"
    with page.expect_download() as download:
        page.locator(".export-go").click()
    with av.open(io.BytesIO(download.value.path().read_bytes())) as video:
        assert video.streams.video[0].width >= 512 and sum(1 for _ in video.decode(video=0)) == 30


def test_export_keys_are_not_stolen_from_text(page, fake_app):
    desk = DeskPage(page, fake_app.url).open()
    desk.prompt.click()
    page.keyboard.press("End")
    page.keyboard.type(" e[]")
    assert desk.prompt.input_value().endswith(" e[]") and not page.locator(".export").is_visible()
