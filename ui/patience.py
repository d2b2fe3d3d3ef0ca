"""When to drop a running preview for a newer edit."""

from __future__ import annotations


class Patience:
    """When to drop a running preview for a newer edit.

    Always dropping starves the screen while someone types, never dropping lags behind. So: drop while less than half is
    done, and only if a picture came recently enough that the next one still makes `gap_s`. The two times adapt to the
    engine: moving averages of what first pictures and whole clips took.
    """

    gap_s = 1.0             # a new picture about this often while typing, if the engine can
    nearly_done_s = 0.15    # less work left than this is finished whatever the share

    def __init__(self):
        self.first_picture_s: float | None = None
        self.clip_s: float | None = None
        self._picture_at = float("-inf")

    def picture_landed(self, now: float) -> None:
        self._picture_at = now

    def measured(self, first_picture_s: float, clip_s: float) -> None:
        mix = (lambda old, new: new if old is None else 0.7 * old + 0.3 * new)
        self.first_picture_s = mix(self.first_picture_s, first_picture_s)
        self.clip_s = mix(self.clip_s, clip_s)

    @property
    def window_s(self) -> float:
        """How fresh the last picture must be for the running work to be dropped."""
        return max(0.2, self.gap_s - (self.first_picture_s or 0.0))

    def gives_up(self, share_done: float, elapsed_s: float, now: float) -> bool:
        """share_done: by steps, in [0, 1]; used until a whole clip was measured."""
        if self.clip_s is not None:
            if self.clip_s - elapsed_s < self.nearly_done_s:
                return False
            share_done = elapsed_s / self.clip_s
        return share_done < 0.5 and now - self._picture_at < self.window_s
