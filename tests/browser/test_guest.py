"""A guest from the local network, in a browser: in by a link that works once, and only what guests may."""

import os
import re
import subprocess
import sys

import pytest

from .conftest import ROOT

SCRIPT = """
import sys, app
from pathlib import Path
from turbo_engine.fake import FakeEngine
from turbo_engine.presets import load_preset
sys.exit(app.serve(lambda preset, folder: FakeEngine(preset, step_s=0.02), load_preset("pocket"), port=0, data_dir=Path(sys.argv[1]), open_browser=False, lan="127.0.0.2"))
"""


@pytest.fixture
def invitation(tmp_path):
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={**os.environ, "PYTHONUNBUFFERED": "1"}) as child:
        try:
            lines = [child.stdout.readline() for _ in range(3)]
            yield re.search(r"http://\S+", lines[2])[0]
            child.terminate()
            assert child.wait(30) == 0
        finally:
            child.kill()


def test_a_guest_comes_in_by_the_link_types_and_sees_the_clip(context, invitation):
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(invitation)
    settled = "() => document.querySelector('.desk')?.dataset.settled === 'true'"
    page.wait_for_function(settled)
    page.locator(".prompt").fill("a robot spinning in space")
    page.wait_for_function("() => { const d = document.querySelector('.desk').dataset; return d.settled === 'true' && d.shownPrompt === 'a robot spinning in space'; }")
    assert page.locator(".film").is_hidden() and page.locator(".export-open").is_hidden() and page.locator(".model-open").is_hidden()
    assert page.locator(".side-turbo .save").is_visible()
    page.reload()
    page.wait_for_function(settled)                         # the cookie holds
    assert complaints == []
    other = context.browser.new_context()
    stranger = other.new_page()
    stranger.goto(invitation)
    stranger.get_by_text("used already").wait_for()
    other.close()
