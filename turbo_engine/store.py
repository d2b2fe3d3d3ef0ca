"""The history: finished clips in the user's folder, an index over them, and the promise that a listed clip is a whole one.

    folder/clips/<id>.mp4     the clip to play, its recipe inside
    folder/clips/<id>.npz     what the recipe does not hold: latent, thumbnail, when, how long it took
    folder/clips/<id>.star    empty; there when the clip is starred
    folder/history.sqlite3    an index for speed: rows, thumbnails, settings. All but the settings can be rebuilt from clips/

A save syncs both files and their folder before the row is committed, so a row never points at half a clip. Each start
makes rows and files agree again, which is the cure for kills, lost databases and damaged ones alike.
"""
from __future__ import annotations                                 # `list` is a method here

import errno
import hashlib
import io
import json
import os
import re
import secrets
import sqlite3
import threading
import time
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from turbo_engine.errors import TurboError
from turbo_engine.media import encode_jpeg, encode_mp4_bytes, read_recipe
from turbo_engine.safe_write import sync_folder, write_whole
from turbo_engine.types import Result

try:
    import fcntl
except ImportError:                                                # not on Windows; SQLite's own lock then stands alone
    fcntl = None

SCHEMA_VERSION = 1
KEY_FIELDS = ("preset", "mode", "prompt", "negative_prompt", "seed", "sampler", "num_steps", "guidance_scale",
              "width", "height", "num_frames")
"""Two recipes that agree in these are one clip; spaces in the prompts do not count."""
UNDO_S = 600.0               # how long a deleted clip can be brought back
THUMBNAIL_PX = 160           # its longer side, at most twice that

_FACTS = {"prompt": str, "mode": str, "seed": int, "fps": int, "num_frames": int, "width": int, "height": int}
_ID = re.compile(r"[A-Za-z0-9_-]{16}", re.ASCII)                   # secrets.token_urlsafe(12)
_TEMPORARY = re.compile(r"\.[A-Za-z0-9_-]{16}\.(mp4|npz)\.\d+\.part", re.ASCII)
_MAX_WORDS, _MAX_LIMIT, _BATCH = 32, 1000, 100
_SCHEMA = (
    "CREATE TABLE clips (id TEXT PRIMARY KEY, key TEXT NOT NULL, created REAL NOT NULL, took_s REAL,"
    " starred INTEGER NOT NULL, deleted REAL, words TEXT NOT NULL, recipe TEXT NOT NULL)",
    "CREATE TABLE thumbnails (id TEXT PRIMARY KEY, jpeg BLOB NOT NULL)",           # apart, so that a search reads past none
    "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE INDEX newest ON clips (created, starred, words) WHERE deleted IS NULL",
    "CREATE INDEX to_sweep ON clips (deleted) WHERE deleted IS NOT NULL",
    "CREATE UNIQUE INDEX one_per_recipe ON clips (key) WHERE deleted IS NULL",
)
_COLUMNS = "id, created, recipe, took_s, starred"


class StoreError(TurboError):
    """A history that cannot be opened or written, or a clip that is not in it."""


@dataclass(frozen=True)
class Entry:
    """A clip of the history. created: Unix seconds; took_s: seconds, None where unknown; mp4: the file to play."""

    id: str
    created: float
    prompt: str
    negative_prompt: str
    seed: int
    mode: str
    recipe: dict
    fps: int
    num_frames: int
    width: int
    height: int
    took_s: float | None
    starred: bool
    mp4: Path


class Store:
    """The clips of one folder. Safe from any thread of one process; a second process is refused.

    notes: plain sentences for the user on what the start had to mend; empty on most days.
    Raises: StoreError from every method when disk or database refuse; nothing of the change is kept then.
    """

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self.notes: list[str] = []
        self._clips = self.folder / "clips"
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._guard, self._last_created = None, 0.0
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)          # prompts are nobody else's business
            self._clips.mkdir(mode=0o700, exist_ok=True)
            self._guard = _only_one(self.folder)
        except OSError as error:
            raise _refused(self.folder, error) from error
        try:
            self._db, aside = _open_database(self.folder / "history.sqlite3")
            found = self._agree_with_files()
            if aside:
                self.notes.append(f"The history was damaged: kept as {aside.name}, made anew. Clips listed again: {found}.")
            elif found:
                self.notes.append(f"Clips that were in the folder but not in the history, now listed: {found}.")
            self.sweep()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _refused(self.folder, error) from error
            raise

    def close(self) -> None:
        """Let go of the folder. Twice is fine; everything else raises StoreError afterwards."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None
            if self._guard is not None:
                self._guard.close()
                self._guard = None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def add(self, result: Result, *, jpeg_thumbnail: bytes | None = None) -> Entry:
        """Keep a finished clip; when this returns it survives a power cut. jpeg_thumbnail: else the middle frame, small.

        A clip of the same recipe gives its place and its star to this one and is deleted.
        Raises: StoreError, OutputError for frames no MP4 can be made of.
        """
        recipe = _checked(result.recipe)
        if (shape := (recipe["num_frames"], recipe["height"], recipe["width"], 3)) != result.frames.shape:
            raise StoreError(f"frames: expected {list(shape)} as the recipe says, got {list(result.frames.shape)}; "
                             "hand over the clip with its own recipe")
        clip_id, created, took_s = secrets.token_urlsafe(12), self._now(), result.stage_s.get("total")
        mp4, jpeg = encode_mp4_bytes(result.frames, result.fps, recipe), jpeg_thumbnail or _thumbnail(result.frames)
        try:                                                       # the MP4 last: where it stands, the clip is whole
            write_whole(self._file(clip_id, "npz"), _pack(result.latent, jpeg, created, took_s))
            write_whole(self._file(clip_id, "mp4"), mp4)
            with self._change() as db:
                self._insert(db, clip_id, created, took_s, False, recipe, jpeg)
        except (OSError, StoreError) as error:
            with suppress(OSError):
                self._unlink(clip_id)
            if isinstance(error, StoreError):
                raise
            raise _refused(self._file(clip_id, "mp4"), error) from error
        return self.get(clip_id) or self._entry((clip_id, created, json.dumps(recipe), took_s, False))

    def find(self, recipe: Mapping) -> Entry | None:
        """The clip made from such a recipe; only KEY_FIELDS of it are looked at."""
        rows = self._read(f"SELECT {_COLUMNS} FROM clips WHERE key = ? AND deleted IS NULL", _key(recipe))
        return self._entry(rows[0]) if rows else None

    def get(self, clip_id: str) -> Entry | None:
        """None for a clip that was deleted or never was, whatever the id looks like."""
        if not _is_id(clip_id):
            return None
        rows = self._read(f"SELECT {_COLUMNS} FROM clips WHERE id = ? AND deleted IS NULL", clip_id)
        return self._entry(rows[0]) if rows else None

    def list(self, query: str = "", *, before: float | None = None, limit: int = 100,
             starred: bool | None = None) -> list[Entry]:
        """Newest first. query: words that must all occur in the prompt, in any case and order, the first 32 count.

        before: `created` of the last entry seen, for the next page; limit: 1 to 1000; starred: None for both kinds.
        """
        words = list(dict.fromkeys(_folded(query).split()))[:_MAX_WORDS]
        where, values = ["deleted IS NULL", *["instr(words, ?)"] * len(words)], [*words]
        if before is not None:
            where, values = [*where, "created < ?"], [*values, before]
        if starred is not None:
            where, values = [*where, "starred = ?"], [*values, int(starred)]
        rows = self._read(f"SELECT {_COLUMNS} FROM clips INDEXED BY newest WHERE {' AND '.join(where)} "
                          "ORDER BY created DESC LIMIT ?", *values, min(max(int(limit), 1), _MAX_LIMIT))
        return [self._entry(row) for row in rows]

    def thumbnail(self, clip_id: str) -> bytes:
        """A small JPEG, of a deleted clip too while it can be brought back."""
        rows = self._read("SELECT jpeg FROM thumbnails WHERE id = ?", clip_id) if _is_id(clip_id) else ()
        if not rows:
            raise _unknown(clip_id)
        return rows[0][0]

    def latent(self, clip_id: str) -> np.ndarray:
        """float32 [C, T', H', W'], kept as float16: the way back to the picture without the MP4's losses."""
        if self.get(clip_id) is None:
            raise _unknown(clip_id)
        try:
            return _unpack(self._file(clip_id, "npz"))[0].astype(np.float32)
        except (OSError, StoreError) as error:
            raise StoreError(f"latent of clip {clip_id}: expected a whole file, found: {error}; "
                             "make the clip again from its recipe") from error

    def star(self, clip_id: str, starred: bool) -> None:
        with self._change() as db:
            if not _is_id(clip_id) or not db.execute("UPDATE clips SET starred = ? WHERE id = ? AND deleted IS NULL",
                                                     (int(starred), clip_id)).rowcount:
                raise _unknown(clip_id)
            self._mark_star(clip_id, starred)

    def delete(self, clip_id: str) -> None:
        """Take a clip off the list. Its files stay for a while: see `undelete` and `sweep`."""
        with self._change() as db:
            if not _is_id(clip_id) or not db.execute("UPDATE clips SET deleted = coalesce(deleted, ?) WHERE id = ?",
                                                     (time.time(), clip_id)).rowcount:
                raise _unknown(clip_id)

    def undelete(self, clip_id: str) -> Entry:
        """Bring a clip back. Where the same recipe was made again since, that clip is the answer."""
        with self._change() as db:
            row = db.execute("SELECT key FROM clips WHERE id = ?", (clip_id,)).fetchone() if _is_id(clip_id) else None
            if row is None or not self._file(clip_id, "mp4").exists():
                raise _unknown(clip_id)
            live = f"SELECT {_COLUMNS} FROM clips WHERE key = ? AND deleted IS NULL"
            if db.execute(live, row).fetchone() is None:
                db.execute("UPDATE clips SET deleted = NULL WHERE id = ?", (clip_id,))
            return self._entry(db.execute(live, row).fetchone())

    def sweep(self, older_than_s: float = UNDO_S) -> int:
        """Really remove what was deleted longer ago than that; every start does it too. Returns how many clips went."""
        count = 0
        while True:
            with self._change() as db:                             # in batches, so that nobody waits long
                ids = [row[0] for row in db.execute("SELECT id FROM clips WHERE deleted <= ? LIMIT ?",
                                                    (time.time() - older_than_s, _BATCH))]
                for clip_id in ids:
                    self._unlink(clip_id)
                if ids:
                    sync_folder(self._clips)                      # files before rows, or a power cut would bring them back
                _forget(db, ids)
            count += len(ids)
            if len(ids) < _BATCH:
                return count

    def set_setting(self, key: str, value) -> None:
        """Remember something JSON-ready. Settings are lost with a damaged database: nothing dear belongs here."""
        with self._change() as db:
            db.execute("INSERT INTO settings VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                       (key, json.dumps(value)))

    def get_setting(self, key: str, default=None):
        rows = self._read("SELECT value FROM settings WHERE key = ?", key)
        return json.loads(rows[0][0]) if rows else default

    # Rows

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One short transaction: all of it or nothing."""
        with self._lock:
            db = self._opened()
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException as error:
                with suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                if isinstance(error, (sqlite3.Error, OSError)):
                    raise _refused(self.folder, error) from error
                raise

    def _read(self, sql: str, *values) -> list[tuple]:
        with self._lock:
            try:
                return self._opened().execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise _refused(self.folder, error) from error

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError("history: expected it open, found it closed; open it again")
        return self._db

    def _insert(self, db: sqlite3.Connection, clip_id: str, created: float, took_s: float | None, starred: bool,
                recipe: dict, jpeg: bytes, *, deleted: float | None = None) -> None:
        """The row of a clip whose files stand. A listed clip of the same recipe gives way, and passes its star on."""
        key = _key(recipe)
        if deleted is None:
            rival = db.execute("SELECT id, starred FROM clips WHERE key = ? AND deleted IS NULL", (key,)).fetchone()
            if rival is not None:
                db.execute("UPDATE clips SET deleted = ? WHERE id = ?", (time.time(), rival[0]))
            if rival is not None and rival[1] and not starred:
                starred = True
                self._mark_star(clip_id, True)
        db.execute("INSERT INTO clips VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                   (clip_id, key, created, took_s, int(starred), deleted, _folded(recipe["prompt"]), json.dumps(recipe)))
        db.execute("INSERT INTO thumbnails VALUES (?, ?)", (clip_id, jpeg))

    def _entry(self, row: tuple) -> Entry:
        clip_id, created, recipe, took_s, starred = row
        recipe = json.loads(recipe)
        return Entry(clip_id, created, recipe["prompt"], recipe.get("negative_prompt") or "", recipe["seed"], recipe["mode"],
                     recipe, recipe["fps"], recipe["num_frames"], recipe["width"], recipe["height"], took_s, bool(starred),
                     self._file(clip_id, "mp4"))

    def _now(self) -> float:
        """Unix seconds, each one once, so that `created` can say where a page of the list ends."""
        with self._lock:
            now = time.time()
            if 0 <= self._last_created - now < 1:
                now = self._last_created + 1e-6
            self._last_created = now
            return now

    # Files

    def _file(self, clip_id: str, kind: str) -> Path:
        assert _is_id(clip_id), clip_id
        return self._clips / f"{clip_id}.{kind}"

    def _unlink(self, clip_id: str) -> None:
        for kind in ("mp4", "npz", "star"):                        # the MP4 first: what is left without one is rubbish
            self._file(clip_id, kind).unlink(missing_ok=True)

    def _mark_star(self, clip_id: str, starred: bool) -> None:
        if starred:
            self._file(clip_id, "star").touch()
        else:
            self._file(clip_id, "star").unlink(missing_ok=True)

    def _agree_with_files(self) -> int:
        """Make rows and files agree after whatever happened: files win. Returns how many clips were listed anew.

        Only while no save can be under way, since it sweeps what a killed one left. A kill in here is cured by the next start.
        """
        files: dict[str, set[str]] = {}
        for file in os.scandir(self._clips):
            stem, _, kind = file.name.partition(".")
            if _TEMPORARY.fullmatch(file.name):
                os.unlink(file.path)
            elif _is_id(stem) and kind in ("mp4", "npz", "star"):
                files.setdefault(stem, set()).add(kind)
        rows = {row[0] for row in self._read("SELECT id FROM clips")}
        for clip_id in [clip_id for clip_id, kinds in files.items() if "mp4" not in kinds]:
            self._unlink(clip_id)
            del files[clip_id]
        with self._change() as db:
            _forget(db, rows - files.keys())
        strays, found = sorted(files.keys() - rows), 0
        for start in range(0, len(strays), _BATCH):
            with self._change() as db:
                for clip_id in strays[start:start + _BATCH]:
                    found += self._adopt(db, clip_id, "star" in files[clip_id])
        self._last_created = max(self._last_created, *self._read("SELECT coalesce(max(created), 0) FROM clips")[0])
        return found

    def _adopt(self, db: sqlite3.Connection, clip_id: str, starred: bool) -> bool:
        """List a clip from its files alone. A file that is no clip of ours is left where it is."""
        mp4 = self._file(clip_id, "mp4")
        try:
            recipe = _checked(read_recipe(mp4))
        except TurboError:
            return False
        try:
            _, jpeg, created, took_s = _unpack(self._file(clip_id, "npz"))
        except (OSError, StoreError):                              # without it there is no latent, but a clip to play
            grey = np.full((1, recipe["height"], recipe["width"], 3), 128, np.uint8)
            jpeg, created, took_s = _thumbnail(grey), mp4.stat().st_mtime, None
        newer = db.execute("SELECT 1 FROM clips WHERE key = ? AND deleted IS NULL AND created > ?", (_key(recipe), created))
        self._insert(db, clip_id, created, took_s, starred, recipe, jpeg, deleted=time.time() if newer.fetchone() else None)
        return True


# Opening

def _only_one(folder: Path):
    """The open lock file that keeps other processes out; the system lets go of it when we die, however we die."""
    file = open(folder / "history.lock", "a+")
    if fcntl is None:
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return file                                            # a file system without such locks: SQLite's lock stands alone
        file.seek(0)
        owner = file.read(20).strip()
        file.close()
        raise StoreError(f"{folder}: expected this history to be free, found it in use by process {owner or 'unknown'}; "
                         "close the other Rushes or start this one with another data folder") from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _open_database(path: Path) -> tuple[sqlite3.Connection, Path | None]:
    """The one connection, sound and locked. A damaged database is moved aside; its new path then, else None."""
    aside = None
    while True:
        try:
            db = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise _refused(path, error) from error
        try:
            db.execute("PRAGMA locking_mode = EXCLUSIVE")          # SQLite below 3.51.3 can lose writes with two connections
            damage = _damage(db, path)
            if damage is None:
                return db, aside
            assert aside is None, f"a new database is damaged: {damage}"
            aside = _move_aside(path)                              # before the close, which would merge and drop the -wal
        except sqlite3.Error as error:
            db.close()
            raise _refused(path, error) from error
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
        raise _refused(path, error) from error
    return aside


# Pieces

def _is_id(clip_id) -> bool:
    return isinstance(clip_id, str) and _ID.fullmatch(clip_id) is not None


def _folded(text: str) -> str:
    """For search: case and ways to write an accent do not matter, nor do half characters that SQLite refuses."""
    return unicodedata.normalize("NFC", text.casefold()).encode(errors="replace").decode()


def _key(recipe: Mapping) -> str:
    asked = {name: recipe.get(name) for name in KEY_FIELDS}
    asked |= {name: " ".join((asked[name] or "").split()) for name in ("prompt", "negative_prompt")}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _checked(recipe: dict) -> dict:
    """The recipe, when a history can list it. Raises: StoreError."""
    for name, kind in _FACTS.items():
        if not isinstance(recipe.get(name), kind):
            raise StoreError(f"recipe: expected {name!r} as {kind.__name__}, got {recipe.get(name)!r}; see turbo_engine.recipe")
    try:
        json.dumps(recipe, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise StoreError(f"recipe: expected plain JSON, got: {error}; see turbo_engine.recipe") from error
    return recipe


def _thumbnail(frames: np.ndarray) -> bytes:
    """The middle frame of uint8 [T, H, W, 3] as a small JPEG."""
    frame = frames[len(frames) // 2]
    by = max(1, min(max(frame.shape[:2]) // THUMBNAIL_PX, *frame.shape[:2]))
    height, width = frame.shape[0] // by, frame.shape[1] // by
    blocks = frame[:height * by, :width * by].reshape(height, by, width, by, 3)
    return encode_jpeg(np.rint(blocks.mean((1, 3))).astype(np.uint8)[None], quality=80)[0]


def _pack(latent: np.ndarray, jpeg: bytes, created: float, took_s: float | None) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, latent=latent.astype(np.float16), thumbnail=np.frombuffer(jpeg, np.uint8),
             about=np.array(json.dumps({"created": created, "took_s": took_s})))
    return buffer.getvalue()


def _unpack(path: Path) -> tuple[np.ndarray, bytes, float, float | None]:
    """What `_pack` was given, the latent as float16. Raises: OSError, StoreError for a damaged file."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as packed:
            about = json.loads(str(packed["about"]))
            return packed["latent"], packed["thumbnail"].tobytes(), float(about["created"]), about["took_s"]
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError, EOFError, NotImplementedError) as error:
        raise StoreError(f"{path}: expected a latent of this app, found: {error}; make the clip again") from error


def _forget(db: sqlite3.Connection, ids) -> None:
    for table in ("clips", "thumbnails"):
        db.executemany(f"DELETE FROM {table} WHERE id = ?", [(clip_id,) for clip_id in ids])


def _unknown(clip_id) -> StoreError:
    return StoreError(f"clip: expected the id of one in the history, got {str(clip_id)[:40]!r}; it may have been deleted")


def _refused(path: Path, error: OSError | sqlite3.Error) -> StoreError:
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
