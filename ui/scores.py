"""How alike two kept clips are, frame by frame, for the plot under the scrub bar; the pairs asked about last are remembered."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict

from .clips import Clip


class Scores:
    """PSNR and SSIM of pairs of clips, from their lossless frames. Safe from any thread.

    One pair is worked on at a time (a pocket pair takes 0.03 s on two cores, 81 frames of 480p have 15 times the pixels,
    and the engine wants the cores), so a pair asked for twice at once is made once.
    """

    def __init__(self, keep: int = 32):
        self._keep = keep
        self._lock = threading.Lock()
        self._by_pair: OrderedDict[tuple[str, str], dict] = OrderedDict()

    def of(self, a: Clip, b: Clip) -> dict:
        """{"psnr_db": [T], "ssim": [T], "fps"}; psnr_db is None where the frames are equal. Both are the same either way round.

        T ticks of the faster clip's clock, as long as the longer one. Raises: ValueError, in plain words, for two shapes of picture.
        """
        pair = tuple(sorted((a.id, b.id)))
        with self._lock:
            if pair not in self._by_pair:
                self._by_pair[pair] = score(a, b)
                if len(self._by_pair) > self._keep:
                    self._by_pair.popitem(last=False)
            self._by_pair.move_to_end(pair)
            return self._by_pair[pair]


def score(a: Clip, b: Clip) -> dict:
    from turbo_engine.compare import aligned, psnr, ssim
    *frames, fps = aligned(a.result.frames, b.result.frames, a.result.fps, b.result.fps)
    return {
        "psnr_db": [round(db, 2) if math.isfinite(db) else None for db in psnr(*frames).tolist()],
        "ssim": [round(share, 4) for share in ssim(*frames).tolist()],
        "fps": fps,
    }
