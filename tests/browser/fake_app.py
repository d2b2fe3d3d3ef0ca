"""The app on an engine that needs no weights: `python -m tests.browser.fake_app PORT DATA_DIR`. For the browser tests only."""

import sys
from dataclasses import replace
from pathlib import Path

import app
from turbo_engine.errors import TurboError
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


def main() -> int:
    pocket = load_preset("pocket")
    menu = {"sizes": ("256x256", "320x192", "192x320"), "lengths": (17, 33)}
    preset = replace(pocket, clip=replace(pocket.clip, **menu))

    def make_engine(data_dir):
        return Touchy(preset, text_s=0.01, step_s=0.04, decode_s=0.04)

    return app.serve(make_engine, preset, port=int(sys.argv[1]), data_dir=Path(sys.argv[2]), open_browser=False)


if __name__ == "__main__":
    sys.exit(main())
