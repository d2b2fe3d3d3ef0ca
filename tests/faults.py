"""Engines that break in every way one can, for the tests of the process around them. The prompt says how: see `Faulty`."""
import os
import signal
import sys
import time
from pathlib import Path

from turbo_engine.fake import FakeEngine


class Faulty(FakeEngine):
    """Does what the prompt's first word says in the middle of its second step; with a marker file, only while that exists.

    die: SIGKILL. fault: SIGSEGV. exit: code 70, as a lost device. hang: sleeps. spin: holds the interpreter. close: shuts its pipe.
    bug: an exception of no kind of ours. pause: 3 s of silence; read: 3 s in which it shows that it is alive. Anything else: a clip.
    """

    def __init__(self, preset, *, marker: str | None = None, fail_load: str | None = None, step_s: float = 0.03,
                 patience_s: float = 0.0):
        super().__init__(preset, step_s=step_s, decode_s=0.02)
        self.marker, self.fail_load, self.patience_s = marker, fail_load, patience_s

    def describe(self):
        return {**super().describe(), "patience_s": self.patience_s}

    def load(self, on_state=None):
        if self.fail_load == "exit":
            os._exit(3)
        if self.fail_load == "bug":
            raise ZeroDivisionError("while loading")
        return super().load(on_state)

    def _work(self, plan, *rest):
        for event in super()._work(plan, *rest):
            yield event
            if getattr(event, "step", 0) == 2 and (self.marker is None or Path(self.marker).exists()):
                self._break(plan.prompt.split()[0])

    def _break(self, how: str) -> None:
        if self.marker is not None and how in ("die", "fault", "exit", "hang", "spin", "close"):
            Path(self.marker).unlink()
        if how in ("die", "fault"):
            os.kill(os.getpid(), signal.SIGKILL if how == "die" else signal.SIGSEGV)
        if how == "exit":
            os._exit(70)
        if how == "hang":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            time.sleep(3600)
        if how == "spin":
            sys.setswitchinterval(1000)
            while True:
                pass
        if how == "close":
            os.close(int(sys.argv[1]))
            time.sleep(3600)
        for _ in range(30 if how in ("pause", "read") else 0):
            time.sleep(0.1)
            if how == "read":
                self.alive()
        if how == "bug":
            raise ZeroDivisionError("a bug")
