"""The engine in a process of its own, behind the engine's own interface: what kills or hangs it costs one job, never the app.

`Worker` starts `turbo_engine.worker_child`, talks to it over a socket pair, starts another when it dies or stands still, and
does the job that was under way once more. A job that stops the engine twice is set aside. Nothing here imports torch.
"""
import mmap
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from turbo_engine import errors
from turbo_engine.crash_reports import CrashReport
from turbo_engine.errors import TurboError
from turbo_engine.presets import Preset, load_preset
from turbo_engine.resolve import resolve
from turbo_engine.types import Event, OnState, Request
from turbo_engine.vocabulary import PromptReport

ENGINE = "turbo_engine.engine:Engine"
TRIES_TO_LOAD = 3
BACK_OFF_S = (0.0, 0.5, 2.0)
POLL_S = 0.01                # how often a long job looks whether it should give way
HEARTBEAT_S = 0.25
STALL_S, STALL_GAPS = 10.0, 8    # stands still: no block for this long, for this many times the longest gap seen, and
                                 # for as long as its models may need for one
QUIT_S = 5.0


class EngineLost(TurboError):
    """The engine's process ended or stood still under a job. cause: in a few words."""

    outcome = "engine lost"

    def __init__(self, cause: str):
        super().__init__(f"engine: it stopped under this clip ({cause}) and was started again; what was kept is safe; try again")
        self.cause = cause


class _Call:
    """One thing asked of the child: what comes back, in order."""

    def __init__(self):
        self.answers: queue.SimpleQueue = queue.SimpleQueue()

    def next(self, timeout: float | None = None):
        """(kind, value); None when nothing came in time. Raises: EngineLost."""
        try:
            kind, value = self.answers.get(timeout=timeout)
        except queue.Empty:
            return None
        if kind == "lost":
            raise EngineLost(value)
        return kind, value


class _Child:
    """One process with a loaded or loading engine."""

    def __init__(self, arguments: dict, reports: Path | None):
        ours, theirs = socket.socketpair()
        self._beats = tempfile.TemporaryFile()
        self._beats.write(bytes(8))
        self._beats.flush()
        self._seen = mmap.mmap(self._beats.fileno(), 8, access=mmap.ACCESS_READ)
        self.report = CrashReport(reports)
        fds = (theirs.fileno(), self._beats.fileno())
        self.process = subprocess.Popen([sys.executable, "-m", "turbo_engine.worker_child", *map(str, fds)], pass_fds=fds,
                                        cwd=Path(__file__).resolve().parents[1], stdin=subprocess.DEVNULL)
        theirs.close()
        self.connection = Connection(ours.detach())
        self._sending = threading.Lock()
        self.ready = False
        self._arguments = {**arguments, "report": self.report.path}

    def load(self) -> None:
        """Have it make its engine. Raises: OSError when it is gone already."""
        self.send(("load", self._arguments))

    def quit(self) -> None:
        try:
            self.send(("quit",))
        except OSError:
            pass                                             # gone already

    def send(self, message: tuple) -> None:
        """Raises: OSError when the child is gone."""
        with self._sending:
            self.connection.send(message)

    @property
    def beats(self) -> int:
        """Blocks, steps and parts of loading done so far."""
        return int.from_bytes(self._seen[:8], sys.byteorder)

    def kill(self, why: str) -> None:
        """Have its stacks written down, then end it."""
        self.report.cause = why
        if hasattr(signal, "SIGUSR1"):
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(0.3)
        self.process.kill()

    def reap(self) -> str:
        """Wait for the process. Returns: why it ended, in a few words."""
        self.connection.close()
        try:
            code = self.process.wait(QUIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self._seen.close()
        self._beats.close()
        cause = self.report.cause or (f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
        self.report.close(cause, expected=code == 0)
        return cause


class Worker:
    """An engine in a child process; use it as an `Engine`, from any thread.

    Args:
        preset: a Preset from a file, or its name or path: the child reads that file again.
        factory: "module:callable" that makes the engine from (preset, **options).
        weights: folder of a Wan preset's files; None: as `parts.weights_folder`.
        options: JSON-ready keyword arguments of the factory.
        reports: folder for crash reports; None: none are kept.
    `restarts` counts children started after the first.
    """

    def __init__(self, preset: Preset | str | Path = "pocket", *, factory: str = ENGINE, weights: Path | None = None,
                 options: dict | None = None, reports: Path | None = None):
        self.preset = preset if isinstance(preset, Preset) else load_preset(preset)
        self.restarts = 0
        self._on_state: OnState = lambda state, line: None
        options = {**(options or {}), **({} if weights is None else {"weights": str(weights.absolute())})}
        self.device: str = options.get("device", "auto")
        self._arguments = {"preset": str(self.preset.path), "factory": factory, "options": options}
        self._reports = reports
        self._child: _Child | None = None
        self._about: dict = {}
        self._failure: TurboError | None = None
        self._closing = False
        self._calls: dict[int, _Call] = {}          # asked, and somebody waits for the answer
        self._working: set[int] = set()             # asked, and the child is not done with it
        self._pings: set[int] = set()               # of these, what was asked to see whether it answers
        self._ids = count(1)
        self._set_aside: set[Request] = set()
        self._giving_way = threading.local()
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=target, name=f"engine {target.__name__.strip('_')}", daemon=True)
                         for target in (self._supervise, self._watch)]

    # -- the engine's interface ----------------------------------------------------------------------------------------

    def load(self, on_state: OnState | None = None) -> "Worker":
        """Start the process and wait for its engine.

        on_state: told at each turn, also later on, from a thread of the worker's own.
        Raises: what the engine's load raises; TurboError if it cannot start.
        """
        self._on_state = on_state or self._on_state
        for thread in self._threads:
            thread.start()
        self._ready_child()
        return self

    @property
    def ready(self) -> bool:
        """Whether its process is there and loaded."""
        with self._changed:
            return self._child is not None and self._child.ready

    def describe(self) -> dict:
        """As the engine's; while it is being started again, as it was last."""
        if self.ready:
            try:
                self._about = self._ask("describe")
            except EngineLost:
                pass
        return {**self._about, "process": {"restarts": self.restarts}}

    def check_prompt(self, prompt: str, seed: int | None = None) -> PromptReport:
        return self._twice(lambda: self._ask("check_prompt", prompt, seed))

    def decode(self, latent: np.ndarray) -> np.ndarray:
        return self._twice(lambda: self._ask("decode", latent))

    def generate(self, request: Request, *, give_way: Callable[[], None] | None = None) -> Iterator[Event]:
        """As the engine's. give_way is called about every POLL_S; what it asks of this worker is done between two blocks.

        When the process is lost, the job starts over once. Raises: RequestError at once; EngineLost after the second time.
        """
        resolve(request, self.preset)
        if request in self._set_aside:
            raise TurboError("engine: this very clip stopped the engine twice and is set aside until the app starts again; "
                             "change the prompt, the seed or a setting")
        return self._follow(request, give_way)

    def answers(self, timeout_s: float) -> bool:
        """Whether a clip can be made now: the process is loaded, and works (see `_watch`) or says something in that time."""
        if not self.ready:
            return False
        with self._changed:
            if self._working - self._pings:
                return True
        return self._said("describe", timeout_s) is not None

    def memory(self, timeout_s: float) -> dict[str, int]:
        """As the engine's; {} where its process does not say in time."""
        answer = self._said("memory", timeout_s) if self.ready else None
        return answer[1] if answer is not None and answer[0] == "answer" else {}

    def close(self) -> None:
        """End the process, and wait for that."""
        with self._changed:
            self._closing, child = True, self._child
            self._changed.notify_all()
        if child is not None:
            child.quit()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(2 * QUIT_S)

    # -- asking --------------------------------------------------------------------------------------------------------

    def _follow(self, request: Request, give_way: Callable[[], None] | None) -> Iterator[Event]:
        for again in (True, False):
            try:
                yield from self._events(request, give_way)
                return
            except EngineLost:
                if not again:
                    self._set_aside.add(request)
                    raise

    def _events(self, request: Request, give_way: Callable[[], None] | None) -> Iterator[Event]:
        number, call, child = self._send("run", request, give_way is not None)
        try:
            while True:
                answer = call.next(POLL_S if give_way else None)
                if give_way is not None and (answer is None or answer[0] == "event"):        # at events too: quick steps leave no pause
                    self._give_way(give_way)
                if answer is None:
                    continue
                if answer[0] == "event":
                    yield answer[1]
                elif answer[0] == "done":
                    return
                else:
                    raise _rebuilt(*answer[1])
        except (GeneratorExit, Exception):
            try:
                child.send(("stop", number))
            except OSError:
                pass
            raise
        finally:
            with self._changed:
                self._calls.pop(number, None)

    def _give_way(self, give_way: Callable[[], None]) -> None:
        depth = getattr(self._giving_way, "depth", 0)
        self._giving_way.depth = depth + 1
        try:
            give_way()
        finally:
            self._giving_way.depth = depth

    def _ask(self, name: str, *arguments):
        number, call, _ = self._send("ask", name, arguments)
        try:
            kind, value = call.next()
        finally:
            with self._changed:
                self._calls.pop(number, None)
        if kind == "failed":
            raise _rebuilt(*value)
        return value

    def _said(self, name: str, timeout_s: float) -> tuple | None:
        """What a quick question got in time, whatever that is. One never answered is found by `_watch`, as any other work."""
        try:
            number, call, _ = self._send("ask", name, ())
            with self._changed:
                self._pings.add(number)
            try:
                return call.next(timeout_s)
            finally:
                with self._changed:
                    self._calls.pop(number, None)
                    self._pings &= self._working
        except TurboError:
            return None

    def _twice(self, ask: Callable):
        try:
            return ask()
        except EngineLost:
            return ask()

    def _send(self, kind: str, *content) -> tuple[int, _Call, _Child]:
        """Put a question to a ready child. urgent: asked by a job that gives way, so it comes before that job's next block."""
        child, call, number = self._ready_child(), _Call(), next(self._ids)
        urgent = getattr(self._giving_way, "depth", 0) > 0
        with self._changed:
            if child is not self._child:
                raise EngineLost("it had just stopped")
            self._calls[number] = call
            self._working.add(number)
        try:
            child.send((kind, number, urgent, *content))
        except OSError as error:
            raise EngineLost(str(error.strerror or error)) from error
        return number, call, child

    def _ready_child(self) -> _Child:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._failure or (self._child is not None and self._child.ready))
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise TurboError("engine: it is being closed; start the app again")
            return self._child

    # -- the process ---------------------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        """Start a child, hand on what it says, start the next when it ends. Lives as long as the worker."""
        failed = 0
        while not self._closing:
            child = _Child(self._arguments, self._reports)
            with self._changed:
                self._child, too_late = child, self._closing
            try:
                child.load()
                if too_late:                                 # `close` saw no child to end
                    child.quit()
                while True:
                    self._hear(child, child.connection.recv())
            except (EOFError, OSError):
                pass
            cause, was_ready = child.reap(), child.ready
            self._lose(cause)
            if self._closing or self._failure is not None:
                break
            failed = 0 if was_ready else failed + 1
            if failed == TRIES_TO_LOAD:
                return self._fail(TurboError(f"engine: expected it to start, but it stopped {failed} times while loading ({cause}); "
                                             "the terminal has the details; restart the app, or the machine if the GPU is gone"))
            self.restarts += 1
            self._on_state("loading", f"The engine stopped ({cause}) and is being started again. Your clips are safe.")
            time.sleep(BACK_OFF_S[failed])

    def _hear(self, child: _Child, message: tuple) -> None:
        kind, *rest = message
        if kind == "loading":
            self._on_state("ready" if child.ready else "loading", rest[0])       # a network that comes when it is first needed
        elif kind == "ready":
            self._about = rest[0]
            with self._changed:
                child.ready = True
                self._changed.notify_all()
            self._on_state("ready", "")
        elif kind == "refused":
            self._fail(_rebuilt(*rest[0]))
        else:
            number, value = rest
            with self._changed:
                call = self._calls.get(number)
                if kind != "event":
                    self._working.discard(number)
            if call is not None:
                call.answers.put((kind, value))

    def _lose(self, cause: str) -> None:
        with self._changed:
            self._child = None
            lost, self._calls = self._calls, {}
            self._working.clear()
            self._changed.notify_all()
        for call in lost.values():
            call.answers.put(("lost", cause))

    def _fail(self, failure: TurboError) -> None:
        with self._changed:
            self._failure = failure
            self._changed.notify_all()
        self._on_state("failed", str(failure))

    def _watch(self) -> None:
        """End a child that works on something and no longer moves. Its own looks are counted, not the clock: a laptop sleeps."""
        watched, beats, still, longest = None, 0, 0.0, 0.0
        while not self._closing:
            time.sleep(HEARTBEAT_S)
            with self._changed:
                child, busy = self._child, bool(self._working)
            if child is None or not child.ready or not busy:
                still = 0.0
                continue
            now = child.beats
            if child is not watched or now != beats:
                longest = max(longest, still) if child is watched else 0.0
                watched, beats, still = child, now, 0.0
                continue
            still += HEARTBEAT_S
            if still > max(STALL_S, STALL_GAPS * longest, self._about.get("patience_s", 0.0)):
                child.kill(f"it stood still for {still:.0f} s")
                still = 0.0


def _rebuilt(kind: str, line: str) -> Exception:
    """A child's exception here: its own class if the engine raises it on purpose, else a line that says where to look."""
    known = getattr(errors, kind, None)
    if isinstance(known, type) and issubclass(known, TurboError):
        return known(line)
    return TurboError(f"The engine stumbled on this one ({kind}); the terminal has the details.")
