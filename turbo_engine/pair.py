"""Turbo clips on one device, full renders on another, behind the interface of one engine: neither waits for the other."""
import threading
from collections.abc import Callable, Iterator

import numpy as np

from turbo_engine.errors import TurboError
from turbo_engine.types import Event, OnState, Request
from turbo_engine.vocabulary import PromptReport
from turbo_engine.worker import Worker


class Pair:
    """Two workers of one preset, each with the networks of its own mode; use it as a `Worker`.

    Any request may be made while a full render is under way, from within its `give_way`: its device works on meanwhile.
    """

    def __init__(self, turbo: Worker, full: Worker):
        assert turbo.preset == full.preset, (turbo.preset.name, full.preset.name)
        self.preset, self._turbo, self._full = turbo.preset, turbo, full
        self._on_state: OnState = lambda state, line: None
        self._loading_full: threading.Thread | None = None

    @property
    def restarts(self) -> int:
        return self._turbo.restarts + self._full.restarts

    def load(self, on_state: OnState | None = None) -> "Pair":
        """Wait for turbo's engine; the other loads beside it, and a full render asked for meanwhile waits for that.

        Raises: as `Worker.load`, for turbo's. Why the other cannot be loaded is told to on_state, and by each full render.
        """
        self._on_state = on_state or self._on_state
        self._loading_full = threading.Thread(target=self._load_full, name="full engine", daemon=True)
        self._loading_full.start()
        self._turbo.load(on_state)
        return self

    def _load_full(self) -> None:
        try:
            self._full.load(self._full_turned)
        except TurboError:
            pass                                             # `_full_turned` was told

    def _full_turned(self, state: str, line: str) -> None:
        """Turbo clips can be made whatever happens to the other engine."""
        if self._turbo.ready:
            self._on_state("ready", line and f"Full renders: {line}")

    def describe(self) -> dict:
        """Turbo's, and where the other is; what that runs stands in its clips' recipes."""
        about = self._turbo.describe()
        return {**about, "kernels": [*about["kernels"], f"full renders: on {self._full.device}"], "process": {"restarts": self.restarts}}

    def check_prompt(self, prompt: str, seed: int | None = None) -> PromptReport:
        return self._turbo.check_prompt(prompt, seed)

    def decode(self, latent: np.ndarray) -> np.ndarray:
        return self._turbo.decode(latent)

    def generate(self, request: Request, *, give_way: Callable[[], None] | None = None) -> Iterator[Event]:
        """As `Worker.generate`."""
        return (self._full if request.mode == "full" else self._turbo).generate(request, give_way=give_way)

    def answers(self, timeout_s: float) -> bool:
        return self._turbo.answers(timeout_s)

    def memory(self, timeout_s: float) -> dict[str, int]:
        """Both engines' together."""
        both = [worker.memory(timeout_s) for worker in (self._turbo, self._full)]
        return {kind: sum(one.get(kind, 0) for one in both) for kind in {**both[0], **both[1]}}

    def close(self) -> None:
        self._full.close()
        self._turbo.close()
        if self._loading_full is not None:
            self._loading_full.join()
