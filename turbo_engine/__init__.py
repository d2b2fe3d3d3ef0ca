"""Everything between a Request and frames. The names below are all that the page and the command line use.

Importing this package is cheap: torch comes in with the first Engine.
"""
from importlib import import_module

__all__ = [
    "Engine", "Event", "FakeEngine", "OutputError", "Preset", "PresetError", "Preview", "Progress", "PromptReport", "Request",
    "RequestError", "Result", "TurboError", "WeightsError", "Worker", "list_presets", "load_preset",
]

_NAMES = {
    "engine": ("Engine",),
    "errors": ("OutputError", "PresetError", "RequestError", "TurboError", "WeightsError"),
    "fake": ("FakeEngine",),
    "presets": ("Preset", "list_presets", "load_preset"),
    "types": ("Event", "Preview", "Progress", "Request", "Result"),
    "vocabulary": ("PromptReport",),
    "worker": ("Worker",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
