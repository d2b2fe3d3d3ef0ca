"""The history: finished clips in the user's folder, an index over them, and the promise that a listed clip is a whole one.

    folder/clips/<id>.mp4     the clip to play, its recipe inside
    folder/clips/<id>.npz     what the recipe does not hold: latent, thumbnail, when, how long it took
    folder/clips/<id>.star    empty; there when the clip is starred
    folder/history.sqlite3    an index for speed: rows, thumbnails, settings. All but the settings can be rebuilt from clips/

A save syncs both files and their folder before the row is committed, so a row never points at half a clip. Each start
makes rows and files agree again, which is the cure for kills, lost databases and damaged ones alike.
"""
from __future__ import annotations                                 # `list` is a method here

import hashlib
import json
import secrets
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from turbo_engine.clip_files import ClipFiles, is_id, make_thumbnail, pack, unpack
from turbo_engine.errors import TurboError
from turbo_engine.media import encode_mp4_bytes
from turbo_engine.recipe_files import read_recipe
from turbo_engine.store_open import StoreError, lock_folder, open_database, refused
from turbo_engine.types import Result

KEY_FIELDS = ("preset", "mode", "prompt", "negative_prompt", "seed", "sampler", "num_steps", "guidance_scale",
              "width", "height", "num_frames")
"""Two recipes that agree in these, and in the picture they start from, are one clip; spaces in the prompts do not count."""
UNDO_S = 600.0               # how long a deleted clip can be brought back

_FACTS = {"prompt": str, "mode": str, "seed": int, "fps": int, "num_frames": int, "width": int, "height": int}
_MAX_WORDS, _MAX_LIMIT, _BATCH = 32, 1000, 100
_COLUMNS = "id, created, recipe, took_s, starred"


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
        self._files = ClipFiles(self.folder / "clips")
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._guard, self._last_created = None, 0.0
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)          # prompts are nobody else's business
            self._files.folder.mkdir(mode=0o700, exist_ok=True)
            self._guard = lock_folder(self.folder)
        except OSError as error:
            raise refused(self.folder, error) from error
        try:
            self._db, aside = open_database(self.folder / "history.sqlite3")
            found = self._agree_with_files()
            if aside:
                self.notes.append(f"The history was damaged: kept as {aside.name}, made anew. Clips listed again: {found}.")
            elif found:
                self.notes.append(f"Clips that were in the folder but not in the history, now listed: {found}.")
            self.sweep()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise refused(self.folder, error) from error
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

    def add(self, result: Result, *, clip_id: str | None = None, jpeg_thumbnail: bytes | None = None) -> Entry:
        """Keep a finished clip; when this returns it survives a power cut.

        clip_id: 12 random bytes by `secrets.token_urlsafe`, else made here. jpeg_thumbnail: else the middle frame, small.
        A clip of the same recipe gives its place and its star to this one and is deleted.
        Raises: StoreError, OutputError for frames no MP4 can be made of.
        """
        recipe = _checked(result.recipe)
        if (shape := (recipe["num_frames"], recipe["height"], recipe["width"], 3)) != result.frames.shape:
            raise StoreError(f"frames: expected {list(shape)} as the recipe says, got {list(result.frames.shape)}; "
                             "hand over the clip with its own recipe")
        clip_id, created, took_s = clip_id or secrets.token_urlsafe(12), self._now(), result.stage_s.get("total")
        mp4, jpeg = encode_mp4_bytes(result.frames, result.fps, recipe), jpeg_thumbnail or make_thumbnail(result.frames)
        try:
            self._files.write(clip_id, mp4, pack(result.latent, jpeg, created, took_s))
            with self._change() as db:
                self._insert(db, clip_id, created, took_s, False, recipe, jpeg)
        except (OSError, StoreError) as error:
            with suppress(OSError):
                self._files.remove(clip_id)
            if isinstance(error, StoreError):
                raise
            raise refused(self._files.path(clip_id, "mp4"), error) from error
        return self.get(clip_id) or self._entry((clip_id, created, json.dumps(recipe), took_s, False))

    def find(self, recipe: Mapping) -> Entry | None:
        """The clip made from such a recipe; only KEY_FIELDS of it are looked at."""
        rows = self._read(f"SELECT {_COLUMNS} FROM clips WHERE key = ? AND deleted IS NULL", _key(recipe))
        return self._entry(rows[0]) if rows else None

    def get(self, clip_id: str) -> Entry | None:
        """None for a clip that was deleted or never was, whatever the id looks like."""
        if not is_id(clip_id):
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

    def pictures(self) -> set[str]:
        """SHA-256 of every picture that a clip starts from, those of deleted clips too while they can be brought back."""
        rows = self._read("SELECT DISTINCT json_extract(recipe, '$.image_sha256') FROM clips")
        return {name for (name,) in rows if name}

    def thumbnail(self, clip_id: str) -> bytes:
        """A small JPEG, of a deleted clip too while it can be brought back."""
        rows = self._read("SELECT jpeg FROM thumbnails WHERE id = ?", clip_id) if is_id(clip_id) else ()
        if not rows:
            raise _unknown(clip_id)
        return rows[0][0]

    def latent(self, clip_id: str) -> np.ndarray:
        """float32 [C, T', H', W'], kept as float16: the way back to the picture without the MP4's losses."""
        if self.get(clip_id) is None:
            raise _unknown(clip_id)
        try:
            return unpack(self._files.path(clip_id, "npz"))[0].astype(np.float32)
        except (OSError, StoreError) as error:
            raise StoreError(f"latent of clip {clip_id}: expected a whole file, found: {error}; "
                             "make the clip again from its recipe") from error

    def star(self, clip_id: str, starred: bool) -> None:
        with self._change() as db:
            if not is_id(clip_id) or not db.execute("UPDATE clips SET starred = ? WHERE id = ? AND deleted IS NULL",
                                                    (int(starred), clip_id)).rowcount:
                raise _unknown(clip_id)
            self._files.mark_star(clip_id, starred)

    def delete(self, clip_id: str) -> None:
        """Take a clip off the list. Its files stay for a while: see `undelete` and `sweep`."""
        with self._change() as db:
            if not is_id(clip_id) or not db.execute("UPDATE clips SET deleted = coalesce(deleted, ?) WHERE id = ?",
                                                    (time.time(), clip_id)).rowcount:
                raise _unknown(clip_id)

    def undelete(self, clip_id: str) -> Entry:
        """Bring a clip back. Where the same recipe was made again since, that clip is the answer."""
        with self._change() as db:
            row = db.execute("SELECT key FROM clips WHERE id = ?", (clip_id,)).fetchone() if is_id(clip_id) else None
            if row is None or not self._files.path(clip_id, "mp4").exists():
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
                    self._files.remove(clip_id)
                if ids:
                    self._files.sync()                            # files before rows, or a power cut would bring them back
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
                    raise refused(self.folder, error) from error
                raise

    def _read(self, sql: str, *values) -> list[tuple]:
        with self._lock:
            try:
                return self._opened().execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise refused(self.folder, error) from error

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
                self._files.mark_star(clip_id, True)
        db.execute("INSERT INTO clips VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                   (clip_id, key, created, took_s, int(starred), deleted, _folded(recipe["prompt"]), json.dumps(recipe)))
        db.execute("INSERT INTO thumbnails VALUES (?, ?)", (clip_id, jpeg))

    def _entry(self, row: tuple) -> Entry:
        clip_id, created, recipe, took_s, starred = row
        recipe = json.loads(recipe)
        return Entry(clip_id, created, recipe["prompt"], recipe.get("negative_prompt") or "", recipe["seed"], recipe["mode"],
                     recipe, recipe["fps"], recipe["num_frames"], recipe["width"], recipe["height"], took_s, bool(starred),
                     self._files.path(clip_id, "mp4"))

    def _now(self) -> float:
        """Unix seconds, each one once, so that `created` can say where a page of the list ends."""
        with self._lock:
            now = time.time()
            if 0 <= self._last_created - now < 1:
                now = self._last_created + 1e-6
            self._last_created = now
            return now

    # Recovery

    def _agree_with_files(self) -> int:
        """Make rows and files agree after whatever happened: files win. Returns how many clips were listed anew.

        Only while no save can be under way: see `ClipFiles.whole`. A kill in here is cured by the next start.
        """
        files = self._files.whole()
        rows = {row[0] for row in self._read("SELECT id FROM clips")}
        with self._change() as db:
            _forget(db, rows - files.keys())
        strays, found = sorted(files.keys() - rows), 0
        for start in range(0, len(strays), _BATCH):
            with self._change() as db:
                for clip_id in strays[start:start + _BATCH]:
                    found += self._adopt(db, clip_id, files[clip_id])
        self._last_created = max(self._last_created, *self._read("SELECT coalesce(max(created), 0) FROM clips")[0])
        return found

    def _adopt(self, db: sqlite3.Connection, clip_id: str, starred: bool) -> bool:
        """List a clip from its files alone. A file that is no clip of ours is left where it is."""
        mp4 = self._files.path(clip_id, "mp4")
        try:
            recipe = _checked(read_recipe(mp4))
        except TurboError:
            return False
        try:
            _, jpeg, created, took_s = unpack(self._files.path(clip_id, "npz"))
        except (OSError, StoreError):                              # without it there is no latent, but a clip to play
            grey = np.full((1, recipe["height"], recipe["width"], 3), 128, np.uint8)
            jpeg, created, took_s = make_thumbnail(grey), mp4.stat().st_mtime, None
        newer = db.execute("SELECT 1 FROM clips WHERE key = ? AND deleted IS NULL AND created > ?", (_key(recipe), created))
        self._insert(db, clip_id, created, took_s, starred, recipe, jpeg, deleted=time.time() if newer.fetchone() else None)
        return True


# Pieces

def _folded(text: str) -> str:
    """For search: case and ways to write an accent do not matter, nor do half characters that SQLite refuses."""
    return unicodedata.normalize("NFC", text.casefold()).encode(errors="replace").decode()


def _key(recipe: Mapping) -> str:
    asked = {name: recipe.get(name) for name in KEY_FIELDS}
    asked |= {name: " ".join((asked[name] or "").split()) for name in ("prompt", "negative_prompt")}
    if recipe.get("image_sha256"):
        asked["image_sha256"] = recipe["image_sha256"]
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


def _forget(db: sqlite3.Connection, ids) -> None:
    for table in ("clips", "thumbnails"):
        db.executemany(f"DELETE FROM {table} WHERE id = ?", [(clip_id,) for clip_id in ids])


def _unknown(clip_id) -> StoreError:
    return StoreError(f"clip: expected the id of one in the history, got {str(clip_id)[:40]!r}; it may have been deleted")
