"""The process behind `worker.Worker`: one engine, one thread that computes, one that listens. Started by the worker only."""
import ctypes
import faulthandler
import gc
import importlib
import mmap
import os
import queue
import signal
import sys
import threading
import traceback
from collections import deque
from multiprocessing.connection import Connection

from turbo_engine.errors import TurboError

QUICK = ("describe", "check_prompt", "memory")         # answered at once, beside whatever is computed
LOST_DEVICE = 70                             # exit code: the device no longer answers, only a new process can use it


class Stopped(Exception):
    """Raised out of a job nobody wants any more."""


class Child:
    def __init__(self, connection: Connection, beats: mmap.mmap):
        self.connection, self._beats, self._count = connection, beats, 0
        self._sending = threading.Lock()
        self._tasks: queue.SimpleQueue = queue.SimpleQueue()
        self._urgent: deque[tuple] = deque()
        self._wanted: set[int] = set()                       # jobs here that nobody has stopped
        self.engine = None

    def beat(self) -> None:
        self._count += 1
        self._beats[:8] = self._count.to_bytes(8, sys.byteorder)

    def send(self, *message) -> None:
        with self._sending:
            self.connection.send(message)

    # -- listening -----------------------------------------------------------------------------------------------------

    def listen(self) -> None:
        """On a thread of its own, to the end: the worker has gone, or asks this process to go."""
        try:
            while True:
                kind, *rest = self.connection.recv()
                if kind == "quit":
                    break
                if kind == "stop":
                    self._wanted.discard(rest[0])
                elif kind == "ask" and rest[2] in QUICK:
                    self._answer(rest[0], rest[2], rest[3])
                else:
                    self._wanted.add(rest[0])
                    if rest[1]:
                        self._urgent.append((kind, *rest))
                    self._tasks.put(None if rest[1] else (kind, *rest))      # None wakes it where nothing is under way
        except (EOFError, OSError):
            pass
        os._exit(0)

    def _answer(self, number: int, name: str, arguments: tuple) -> None:
        try:
            self.send("answer", number, getattr(self.engine, name)(*arguments))
        except Exception as error:
            self._failed(number, error)

    # -- computing -----------------------------------------------------------------------------------------------------

    def load(self, arguments: dict) -> None:
        """Raises: SystemExit after a refusal was sent."""
        try:
            module, _, name = arguments["factory"].partition(":")
            engine = getattr(importlib.import_module(module), name)(arguments["preset"], **arguments["options"])
            engine.alive = self.beat
            self.engine = engine.load(lambda state, line: self.send("loading", line))
        except Exception as error:
            if not isinstance(error, TurboError):
                traceback.print_exc()
            self.send("refused", _told(error))
            raise SystemExit(0) from error
        self.send("ready", self.engine.describe())

    def work(self) -> None:
        while True:
            task = self._tasks.get()
            self._aside()
            if task is not None:
                self._perform(*task)

    def _aside(self, number: int | None = None) -> None:
        """Between two blocks of job `number`: leave it if it was stopped, do what is urgent."""
        self.beat()
        if number is not None:
            self._leave_if_stopped(number)
        while self._urgent:
            self._perform(*self._urgent.popleft())

    def _leave_if_stopped(self, number: int) -> None:
        if number not in self._wanted:
            raise Stopped

    def _perform(self, kind: str, number: int, urgent: bool, *content) -> None:
        try:
            if kind == "ask":
                self._answer(number, *content)
            else:
                self._run(number, *content)
                self.send("done", number, None)
        except Stopped:
            self.send("stopped", number, None)
        except Exception as error:
            self._failed(number, error)
        finally:
            self._wanted.discard(number)
            self.beat()

    def _run(self, number: int, request, gives_way: bool) -> None:
        between_blocks = gives_way or str(self.engine.device) == "cpu"      # a GPU waits for each block to be asked this
        events = self.engine.generate(request, give_way=(lambda: self._aside(number)) if between_blocks else None)
        try:
            for event in events:
                self.send("event", number, event)
                self.beat()
                self._leave_if_stopped(number)
        finally:
            events.close()

    def _failed(self, number: int, error: Exception) -> None:
        if not isinstance(error, TurboError):
            traceback.print_exception(error)
            if "CUDA error" in str(error):                   # sticky: every later call in this process fails too
                os._exit(LOST_DEVICE)
        self.send("failed", number, _told(error))
        error.__traceback__ = None                           # it holds the job's tensors
        gc.collect()


def _told(error: Exception) -> tuple[str, str]:
    """(class, line), the class one of turbo_engine.errors where it is a TurboError."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "turbo_engine.errors"]
    return (kinds[0] if kinds else type(error).__name__), str(error)


def _die_with_parent() -> None:
    """On Linux, even when this process hangs and hears nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)           # PR_SET_PDEATHSIG: of the thread that started us, which stays


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)             # Ctrl-C is the app's to hear
    _die_with_parent()
    connection, beats = Connection(int(sys.argv[1])), mmap.mmap(int(sys.argv[2]), 8)
    child = Child(connection, beats)
    _, arguments = connection.recv()
    stacks = open(arguments["report"] or os.devnull, "w")
    faulthandler.enable(stacks)
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1, stacks)
    threading.Thread(target=child.listen, daemon=True).start()         # from now on: it may be told to go while it loads
    child.load(arguments)
    child.work()


if __name__ == "__main__":
    main()
