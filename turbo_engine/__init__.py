"""Everything between a Request and frames. The names below are all that the page and the command line use.

Importing this package is cheap: torch comes in with the first Engine.
"""
from importlib import import_module

_HOME = {
    "Engine": "engine", "FakeEngine": "fake",
    "Request": "types", "Progress": "types", "Preview": "types", "Result": "types", "Event": "types",
    "Preset": "presets", "load_preset": "presets", "list_presets": "presets", "PromptReport": "vocabulary",
    "TurboError": "errors", "RequestError": "errors", "PresetError": "errors", "WeightsError": "errors",
    "OutputError": "errors",
}
__all__ = [*_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
