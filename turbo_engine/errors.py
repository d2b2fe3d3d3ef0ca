"""Every failure a user can cause or cure. A message says what, expected, found, and the way out."""


class TurboError(Exception):
    """Base of all errors the engine raises on purpose; the page and the command line show it as one line.

    outcome: what became of the job, for counting.
    """

    outcome = "failed"


class RequestError(TurboError):
    """A request the engine cannot serve: empty prompt, length not 4k + 1, size off the menu."""


class OutOfMemory(TurboError):
    """A clip that does not fit into the device's memory; the next one may."""

    outcome = "no memory"


class PresetError(TurboError):
    """A preset file with an unknown, missing or impossible value."""


class WeightsError(TurboError):
    """A checkpoint that is missing, truncated, foreign or not what its manifest promises."""


class OutputError(TurboError):
    """A clip that could not be written: folder missing, no permission, disk full, encoder absent."""
