"""The app on an engine that needs no weights: `python -m tests.browser.fake_app PORT DATA_DIR`. For the browser tests only."""

import sys
from pathlib import Path

import app
from turbo_engine.errors import TurboError
from turbo_engine.fake import FakeEngine
from turbo_engine.presets import load_preset


class Touchy(FakeEngine):
    """Breaks on the prompts that name a way to break."""

    def _work(self, plan, start):
        if plan.prompt == "raise a turbo error":
            raise TurboError("output: expected a picture, got <b>nothing</b> ${1}; try another seed")
        if plan.prompt == "raise a bug":
            raise ZeroDivisionError("a bug")
        yield from super()._work(plan, start)


def main() -> int:
    preset = load_preset("pocket")

    def make_engine():
        return Touchy(preset, text_s=0.01, step_s=0.04, decode_s=0.04).load()

    return app.serve(make_engine, preset, port=int(sys.argv[1]), data_dir=Path(sys.argv[2]), open_browser=False)


if __name__ == "__main__":
    sys.exit(main())
