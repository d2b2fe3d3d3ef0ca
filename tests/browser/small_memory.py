"""The app on an engine that has room for one network at a time: `python -m tests.browser.small_memory PRESET.toml DATA_DIR`. For the browser tests only."""
import sys
import time
from dataclasses import replace
from pathlib import Path

import app
from turbo_engine.presets import load_preset

BLOCK_S = 0.04               # 50 steps of two passes over two blocks: 8 s


def small_engine(preset: str):
    """An engine on the CPU with a memory plan of a small GPU, and slow enough to type beside."""
    from turbo_engine.engine import Engine

    class SmallEngine(Engine):
        def load(self, on_state=None):
            super().load(on_state)
            self._family.memory = replace(self._family.memory, networks=1)
            return self

        def _between_blocks(self, *_):
            time.sleep(BLOCK_S)
            super()._between_blocks()

    return SmallEngine(preset, device="cpu")


def main() -> int:
    from turbo_engine.worker import Worker

    def make_engine(preset, data_dir):
        return Worker(preset, factory="tests.browser.small_memory:small_engine")

    return app.serve(make_engine, load_preset(sys.argv[1]), port=0, data_dir=Path(sys.argv[2]), open_browser=False)


if __name__ == "__main__":
    sys.exit(main())
