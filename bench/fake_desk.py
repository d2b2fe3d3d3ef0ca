"""The app on an engine that takes 240 ms a clip, as a fast GPU would: what is left of a person's wait is the page's own.

    python -m bench.fake_desk DATA_DIR
"""
import sys
from pathlib import Path

import app
from turbo_engine.fake import FakeEngine
from turbo_engine.presets import load_preset

TEXT_S, STEP_S, DECODE_S = 0.02, 0.045, 0.04        # with four steps 240 ms


def main() -> int:
    preset = load_preset("pocket")

    def make_engine(preset, data_dir):
        return FakeEngine(preset, text_s=TEXT_S, step_s=STEP_S, decode_s=DECODE_S)

    return app.serve(make_engine, preset, port=0, data_dir=Path(sys.argv[1]), open_browser=False, others=())


if __name__ == "__main__":
    sys.exit(main())
