"""Freed memory back to the system.

glibc keeps what was freed in the midst of its heaps, and lets blocks of up to 32 MiB lie there: after hours of clips a process would hold some
hundred MiB that nobody uses.
"""
import ctypes
import functools


@functools.cache
def _trim():
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):           # another C library, another system
        return lambda pad: 0


def give_back() -> None:
    """About 10 ms where a clip was just made; nothing where the C library has no such thing."""
    _trim()(0)
