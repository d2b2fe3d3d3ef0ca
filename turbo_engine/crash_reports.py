"""What a lost engine leaves behind: one small text file each, the newest KEPT of them."""
import os
import platform
import tempfile
import time
from pathlib import Path

KEPT = 20
MOST_BYTES = 1 << 20


class CrashReport:
    """A file the child writes its stacks to when it faults; thrown away again when the child ends well.

    folder: None for no report. path: handed to the child, None without a folder. cause: set it when you end the child yourself.
    """

    def __init__(self, folder: Path | None):
        self.path: str | None = None
        self.cause = ""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            handle, self.path = tempfile.mkstemp(".txt", time.strftime("engine-%Y%m%d-%H%M%S-"), folder)
            os.close(handle)

    def close(self, cause: str, *, expected: bool) -> None:
        """The child has ended. expected: it was asked to."""
        if self.path is None:
            return
        path = Path(self.path)
        try:
            if expected:
                return path.unlink(missing_ok=True)
            stacks = path.read_bytes()[:MOST_BYTES].decode(errors="replace")
            path.write_text(f"engine stopped: {cause}\n{time.strftime('%Y-%m-%d %H:%M:%S')}, {platform.platform()}, "
                            f"Python {platform.python_version()}\n\n{stacks}")
            for old in sorted(path.parent.glob("engine-*.txt"))[:-KEPT]:
                old.unlink(missing_ok=True)
        except OSError:
            pass                                             # a full disk must not stop the next engine
