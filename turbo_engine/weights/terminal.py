"""What a download or a conversion shows on a terminal, on stderr."""
import sys

from turbo_engine.weights.fetch import Remote


def announce(remotes: list[Remote]) -> None:
    """Each file's size before the first byte."""
    for remote in remotes:
        here = f", {remote.here / 1e9:.2f} here already" if remote.here else ""
        print(f"{remote.wanted.repo}/{remote.wanted.file}: {remote.size / 1e9:.2f} GB{here}", file=sys.stderr, flush=True)


def bar(done: int, total: int) -> None:
    if sys.stderr.isatty() or done >= total:
        print(f"\r{done / 1e9:.2f} of {total / 1e9:.2f} GB", end="" if done < total else "\n", file=sys.stderr, flush=True)
