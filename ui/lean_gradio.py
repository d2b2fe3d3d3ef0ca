"""Gradio, imported without its type stubs. Whatever of Gradio the app needs first comes from here: `from .lean_gradio import gr`.

At each import Gradio parses the source of each of its components again and writes a `.pyi` beside it, for editors: close to half of the import's
time, and two apps that start at once write the same files. For a class whose source cannot be had it writes none.
"""

import inspect
from unittest.mock import patch

_getfile = inspect.getfile


def _file_of(thing) -> str:
    if isinstance(thing, type) and thing.__module__.startswith("gradio."):
        raise OSError("a class of Gradio: no type stub is wanted")
    return _getfile(thing)


with patch.object(inspect, "getfile", _file_of):
    import gradio as gr

__all__ = ["gr"]
