"""Opening the history: one process at a time, a database found sound or moved aside, and what refusals are called."""
import errno
import os
import secrets
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from turbo_engine.errors import TurboError
from turbo_engine.safe_write import sync_folder

try:
    import fcntl
except ImportError:                                                # not on Windows; SQLite's own lock then stands alone
    fcntl = None

SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE clips (id TEXT PRIMARY KEY, key TEXT NOT NULL, created REAL NOT NULL, took_s REAL,"
    " starred INTEGER NOT NULL, deleted REAL, words TEXT NOT NULL, recipe TEXT NOT NULL)",
    "CREATE TABLE thumbnails (id TEXT PRIMARY KEY, jpeg BLOB NOT NULL)",           # apart, so that a search reads past none
    "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE INDEX newest ON clips (created, starred, words) WHERE deleted IS NULL",
    "CREATE INDEX to_sweep ON clips (deleted) WHERE deleted IS NOT NULL",
    "CREATE UNIQUE INDEX one_per_recipe ON clips (key) WHERE deleted IS NULL",
)


class StoreError(TurboError):
    """A history that cannot be opened or written, or a clip that is not in it."""


def lock_folder(folder: Path):
    """The open lock file that keeps other processes out; the system lets go of it when we die, however we die."""
    file = open(folder / "history.lock", "a+")
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return file                                            # a file system without such locks: SQLite's stands alone
        file.seek(0)
        owner = file.read(20).strip()
        file.close()
        raise StoreError(f"{folder}: expected this history to be free, found it in use by process {owner or 'unknown'}; "
                         "close the other Rushes or start this one with another data folder") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def open_database(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    """The one connection, sound and locked. A damaged database is moved aside; its new path then, else None."""
    aside = None
    while True:
        try:
            db = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise refused(path, error) from error
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")          # SQLite below 3.51.3 can lose writes with two connections
            damage = _damage(db, path)
            if damage is None:
                return db, aside
            assert aside is None, f"a new database is damaged: {damage}"
            aside = _move_aside(path)                              # before the close, which would merge and drop the -wal
        except sqlite3.Error as error:
            db.close()
            raise refused(path, error) from error
        except BaseException:
            db.close()
            raise
        db.close()


def _damage(db: sqlite3.Connection, path: Path) -> str | None:
    """What is wrong with a database; None after it was found sound, or was empty and got its tables."""
    try:
        report = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if report != "ok":
            return report
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(f"{path}: expected a history of version {SCHEMA_VERSION}, found {version}, written by a newer "
                             "Rushes; update Rushes or start it with another data folder")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        tables = _tables(db)
        if not tables and version == 0:
            db.execute("BEGIN IMMEDIATE")
            for statement in (*_SCHEMA, f"PRAGMA user_version = {SCHEMA_VERSION}"):
                db.execute(statement)
            db.execute("COMMIT")
            return None
        if version != SCHEMA_VERSION or not set(_SCHEMA) <= tables:
            return "other tables than ours"
        if db.execute("SELECT 1 FROM clips WHERE NOT json_valid(recipe) LIMIT 1").fetchone():
            return "a recipe that is none"
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xff not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise                                                  # busy, full, unreadable: no reason to doubt the content
        return str(error)
    return None


def _tables(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite!_%' ESCAPE '!'")}


def _move_aside(path: Path) -> Path:
    """Sidecars before the database: a kill in between leaves a damaged database to be found again."""
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}")
    try:
        for suffix in ("-wal", "-shm", "-journal", ""):
            with suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        sync_folder(path.parent)
    except OSError as error:
        raise refused(path, error) from error
    return aside


def refused(path: Path, error: OSError | sqlite3.Error) -> StoreError:
    """The one translation of what disk and database say."""
    if isinstance(error, OSError):
        code, reason = error.errno, error.strerror or str(error)
    else:
        code, reason = getattr(error, "sqlite_errorcode", 0) & 0xff, str(error)
        code = {sqlite3.SQLITE_FULL: errno.ENOSPC, sqlite3.SQLITE_READONLY: errno.EROFS, sqlite3.SQLITE_PERM: errno.EACCES,
                sqlite3.SQLITE_BUSY: "locked", sqlite3.SQLITE_LOCKED: "locked", sqlite3.SQLITE_CORRUPT: "damaged",
                sqlite3.SQLITE_NOTADB: "damaged", sqlite3.SQLITE_IOERR: errno.EIO}.get(code)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        expected, way_out = "room on the disk", "free some space"
    elif code == errno.EIO:
        expected, way_out = "the disk to take it", "free some space, look after the disk or choose another data folder"
    elif code == "locked":
        expected, way_out = "the database to be free", "close the program that has it open"
    elif code == "damaged":
        expected, way_out = "a sound database", "start Rushes again, it rebuilds it from the clips"
    else:
        expected, way_out = "a folder to read and write", "check that it is there and yours, or choose another data folder"
    return StoreError(f"{path}: expected {expected}, found: {reason}; {way_out}")
