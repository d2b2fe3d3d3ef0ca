"""Files from elsewhere are opened in a process of their own, which can open nothing else, has little memory and little time.

`read_foreign_recipe(data, name)` is `recipe_files.read_recipe` behind that wall: FFmpeg's parsers have new holes every year, and
what a file claims to be is no reason to let it choose among them. Run as a module it is the other side of the wall.
"""
import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

from turbo_engine.errors import OutputError

LIMIT_S = 20.0               # a sound file takes half a second, nearly all of it for starting
CPU_S = 10
MEMORY_BYTES = 1 << 30       # of address space, the file itself and the libraries included
MOST_ANSWER = 1 << 20


def read_foreign_recipe(data: bytes, name: str) -> dict:
    """The recipe inside a file's bytes. Raises: OutputError, one line; also for a file that ends, hangs or fills the process."""
    nothing = OutputError(f"{name}: expected a file exported by this app, found one that cannot be read safely; choose another file")
    try:
        done = subprocess.run([sys.executable, "-m", "turbo_engine.media_gate", name, str(len(data))], input=data, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, timeout=LIMIT_S, cwd=Path(__file__).resolve().parents[1])
        kind, value = json.loads(done.stdout[:MOST_ANSWER])
    except (subprocess.TimeoutExpired, ValueError, TypeError) as error:
        raise nothing from error
    if done.returncode or kind not in ("recipe", "refused"):
        raise nothing
    if kind == "refused":
        raise OutputError(str(value)[:1000])
    return value


def _wall_off(size: int) -> None:
    """From here on: no new file or socket, no writing, no child, no more memory than that. size: of the file, bytes."""
    try:
        import resource
    except ImportError:                                      # Windows: a process of its own and the time limit stand alone
        return
    for limit, value in ((resource.RLIMIT_NOFILE, 3), (resource.RLIMIT_FSIZE, 1 << 20), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, CPU_S),
                         (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_AS, MEMORY_BYTES + 2 * size)):
        resource.setrlimit(limit, (value, value))


def _other_side(name: str, size: int) -> None:
    import av

    from turbo_engine.recipe_files import read_recipe
    for module in pkgutil.walk_packages(av.__path__, "av."):             # all before the wall: it imports some with the first stream of a kind
        if not module.name.endswith(("__main__", "datasets")):
            importlib.import_module(module.name)
    _wall_off(size)
    try:
        answer = "recipe", read_recipe(sys.stdin.buffer.read(), name)
    except OutputError as error:
        answer = "refused", str(error)
    print(json.dumps(answer))


if __name__ == "__main__":
    _other_side(sys.argv[1], int(sys.argv[2]))
