"""The app on an engine that needs no weights: `python -m tests.browser.fake_app PORT DATA_DIR`. For the browser tests only.

Beside pocket it offers "wide", which is another size; "broken", which cannot be loaded; and "far", whose weights are missing.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import app
from turbo_engine.errors import TurboError, WeightsError
from turbo_engine.fake import FakeEngine
from turbo_engine.presets import load_preset
from turbo_engine.types import Result


class Touchy(FakeEngine):
    """Breaks on the prompts that name a way to break; with "unlike" in the prompt, full is the negative of turbo."""

    def _work(self, plan, *rest):
        if plan.prompt == "raise a turbo error":
            raise TurboError("output: expected a picture, got <b>nothing</b> ${1}; try another seed")
        if plan.prompt == "raise a bug":
            raise ZeroDivisionError("a bug")
        for event in super()._work(plan, *rest):
            if isinstance(event, Result) and plan.mode == "full" and "unlike" in plan.prompt:
                event = replace(event, frames=255 - event.frames)
            yield event


class Slow(Touchy):
    """Takes a while to load, and says so; the preset called broken does not load."""

    def load(self, on_state=None):
        for line in ("Reading the networks, 1.2 of 2.4 GB", "Warming up") if self.preset.name != "pocket" else ():
            on_state("loading", line)
            time.sleep(0.4)
        if self.preset.name == "broken":
            raise WeightsError("turbo.safetensors: expected a whole file, found one cut short; get it again")
        return super().load(on_state)


def main() -> int:
    pocket = load_preset("pocket")
    menu = {"sizes": ("256x256", "320x192", "192x320"), "lengths": (17, 33)}
    preset = replace(pocket, clip=replace(pocket.clip, **menu))

    wide = replace(pocket.clip, width=320, height=192, sizes=("320x192",), lengths=(17,), num_frames=17, max_num_frames=33)
    others = [replace(pocket, name=name, clip=wide) for name in ("wide", "broken", "far")]
    far = "Not in /models: turbo network (2.84 GB). Start the app with --download."

    def make_engine(preset, data_dir):
        return Slow(preset, text_s=0.01, step_s=0.04, decode_s=0.04)

    return app.serve(make_engine, preset, port=int(sys.argv[1]), data_dir=Path(sys.argv[2]), open_browser=False, others=others,
                     why_not=lambda preset: far if preset.name == "far" else "")


if __name__ == "__main__":
    sys.exit(main())
