"""Ctrl-C and SIGTERM: a clean end at any moment, in LIMIT_S at most; a second one ends at once."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from pathlib import Path

LIMIT_S = 9.0


class Ending:
    """Takes both signals from now on. While the app starts they end it on the spot: what is on disk bears that.

    leftovers: files to remove in any case. Only in the main thread.
    """

    def __init__(self):
        self.leftovers: list[Path] = []
        self._server, self._asked, self._limited = None, 0, False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._heard)

    def serving(self, server) -> None:
        """From now on a signal asks this uvicorn server to end. It takes them over itself for its time, and hands them on here."""
        self._server = server

    def limit(self) -> None:
        """The end has begun: show where everything stands and leave when it takes too long."""
        if not self._limited:
            self._limited = True
            faulthandler.dump_traceback_later(LIMIT_S, exit=True)

    def clean_up(self) -> None:
        for path in self.leftovers:
            path.unlink(missing_ok=True)

    def leave(self) -> None:
        """The last step, when all that must be kept is. Not by way of the interpreter's own end: it unwinds threads from inside
        the compiled code they are in, an export's picture or a decode, and that aborts the process."""
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):          # a terminal that has gone
                stream.flush()
        os._exit(0)

    def _heard(self, number: int, frame) -> None:
        self._asked += 1
        if self._server is not None and self._asked == 1:
            self._server.should_exit = True
            return self.limit()
        self.clean_up()
        os._exit(0 if self._asked == 1 else 128 + number)
