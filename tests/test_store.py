"""The history: what is listed is whole, what was saved stays, whatever was killed, filled up or damaged in between."""
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import pytest

from turbo_engine import store as store_module
from turbo_engine import store_open
from turbo_engine.errors import TurboError
from turbo_engine.recipe_files import read_recipe
from turbo_engine.store import Store, StoreError
from turbo_engine.types import Result

ROOT = Path(__file__).parent.parent


def clip(prompt="a fox in snow", seed=0, num_frames=5, height=32, width=32, **changes) -> Result:
    pixels = np.random.default_rng(int(seed))
    recipe = {"schema": 1, "app": "rushes", "preset": "pocket", "prompt": prompt, "negative_prompt": "", "seed": seed,
              "mode": "turbo", "sampler": "sde", "num_steps": 4, "nfe": 4, "guidance_scale": 1.0, "width": width,
              "height": height, "num_frames": num_frames, "fps": 8, "weights": {"dit": "0" * 64}} | changes
    return Result(pixels.integers(0, 255, (num_frames, height, width, 3), np.uint8),
                  pixels.standard_normal((8, 1 + num_frames // 4, height // 8, width // 8)).astype(np.float32),
                  recipe["fps"], {"text": 0.1, "denoise": 1.0, "decode": 0.2, "total": 1.3}, recipe)


def count_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def store(folder):
    with Store(folder) as opened:
        yield opened


# What it keeps

def test_round_trip(store, folder):
    result = clip("ein Fuchs, \"weiß\" 狐", seed=2**63, negative_prompt="blur", num_frames=9, height=48, width=64)
    before = time.time()
    entry = store.add(result)
    store.close()
    with Store(folder) as again:
        assert again.notes == []
        assert again.list() == [entry] and again.get(entry.id) == entry
        assert (entry.prompt, entry.negative_prompt) == ("ein Fuchs, \"weiß\" 狐", "blur")
        assert (entry.seed, entry.mode) == (2**63, "turbo")
        assert (entry.fps, entry.num_frames, entry.width, entry.height) == (8, 9, 64, 48)
        assert entry.took_s == 1.3 and not entry.starred and before <= entry.created <= time.time()
        assert entry.recipe == result.recipe == read_recipe(entry.mp4)
        assert count_frames(entry.mp4) == 9
        latent = again.latent(entry.id)
        assert latent.dtype == np.float32 and np.array_equal(latent, result.latent.astype(np.float16))
        assert again.thumbnail(entry.id)[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize("height, width, size", [(480, 832, (96, 166)), (32, 32, (32, 32)), (2, 1000, (1, 500))])
def test_thumbnail_is_small(store, height, width, size):
    import cv2

    entry = store.add(clip(num_frames=1, height=height, width=width))
    assert cv2.imdecode(np.frombuffer(store.thumbnail(entry.id), np.uint8), cv2.IMREAD_COLOR).shape[:2] == size


def test_a_thumbnail_may_be_brought_along(store):
    assert store.thumbnail(store.add(clip(), jpeg_thumbnail=b"\xff\xd8\xff mine").id) == b"\xff\xd8\xff mine"


def test_newest_first_page_by_page(store):
    entries = [store.add(clip(seed=seed)) for seed in range(7)]
    seen, before = [], None
    while page := store.list(before=before, limit=3):
        seen += page
        before = page[-1].created
    assert seen == entries[::-1]
    assert len(store.list(limit=-5)) == 1                          # not SQL's "no limit"


def test_search(store):
    prompts = ["A Fox in snow", "100% wool_hat", "100 wool hat", "it's a \"quoted\" day; DROP TABLE clips --", "Ärger in KÖLN",
               "cafe\u0301 at night", "back\\slash"]
    for seed, prompt in enumerate(prompts):
        store.add(clip(prompt, seed))

    def found(query):
        return {entry.prompt for entry in store.list(query)}

    assert found("snow FOX") == {"A Fox in snow"} and found("fox rain") == set()
    assert found("%") == found("wool_") == {"100% wool_hat"}
    assert found("it's") == found('"quoted"') == found("clips --") == {prompts[3]}
    assert found("ärger köln") == {"Ärger in KÖLN"} and found("café") == {prompts[5]} and found("\\") == {"back\\slash"}
    assert found("  ") == set(prompts) and found("\ud800") == set() and found("\0") == set()
    assert found(" ".join(map(str, range(5000)))) == set()


def test_star(store, folder):
    first, second = store.add(clip(seed=1)), store.add(clip(seed=2))
    store.star(first.id, True)
    assert [entry.id for entry in store.list(starred=True)] == [first.id] and store.get(first.id).starred
    assert [entry.id for entry in store.list(starred=False)] == [second.id]
    store.star(first.id, False)
    assert store.list(starred=True) == []


def test_delete_and_undelete(store):
    entry = store.add(clip())
    store.delete(entry.id)
    store.delete(entry.id)                                         # a double click
    assert store.list() == [] and store.get(entry.id) is None and store.find(entry.recipe) is None
    with pytest.raises(StoreError, match="deleted"):
        store.latent(entry.id)
    assert store.sweep() == 0 and entry.mp4.exists()               # too young
    assert store.undelete(entry.id) == entry and store.list() == [entry]


def test_sweep_removes_files_and_rows(store, folder):
    gone, stays = store.add(clip(seed=1)), store.add(clip(seed=2))
    store.star(gone.id, True)
    store.delete(gone.id)
    assert store.sweep(older_than_s=0) == 1
    assert {file.name for file in (folder / "clips").iterdir()} == {f"{stays.id}.mp4", f"{stays.id}.npz"}
    for act in (store.undelete, store.thumbnail, store.delete):
        with pytest.raises(StoreError, match="expected the id of one in the history"):
            act(gone.id)


def test_the_same_recipe_again_takes_the_old_ones_place(store):
    old = store.add(clip("a fox  in snow"))
    store.star(old.id, True)
    other = store.add(clip(num_steps=2))
    new = store.add(clip(" a fox in snow"))
    assert [entry.id for entry in store.list()] == [new.id, other.id]
    assert new.starred and store.find(clip().recipe) == new and store.find(clip(seed=9).recipe) is None
    assert store.undelete(old.id) == new                           # one clip a recipe, the newer one


def test_a_clock_set_back_loses_no_clip(store, monkeypatch):
    old = store.add(clip())
    monkeypatch.setattr(store_module.time, "time", lambda: old.created - 86400)
    new = store.add(clip())
    assert [entry.id for entry in store.list()] == [new.id]


def test_settings(store, folder):
    assert store.get_setting("last prompt", "none yet") == "none yet"
    store.set_setting("last prompt", {"words": "狐"})
    store.set_setting("last prompt", {"words": "fox"})
    store.close()
    with Store(folder) as again:
        assert again.get_setting("last prompt") == {"words": "fox"}


# What it refuses

@pytest.mark.parametrize("clip_id", ["", "../../etc/passwd", "a" * 15, "a" * 17, "a" * 15 + "\n", "a" * 15 + "/", "ａ" * 16,
                                     "'; DROP TABLE--'", None, 7, b"a" * 16])
def test_foreign_ids_never_become_paths(store, clip_id):
    assert store.get(clip_id) is None
    for act in (store.thumbnail, store.latent, store.delete, store.undelete, lambda name: store.star(name, True)):
        with pytest.raises(StoreError, match="id of one in the history"):
            act(clip_id)


@pytest.mark.parametrize("changes", [{"prompt": None}, {"seed": "1"}, {"extra": float("nan")}, {"extra": {1, 2}},
                                     {"extra": "\ud800"}])
def test_recipes_that_could_not_be_read_back_are_refused(store, folder, changes):
    with pytest.raises(StoreError, match="recipe: expected"):
        store.add(clip(**changes))
    assert list((folder / "clips").iterdir()) == []


def test_frames_of_another_recipe_are_refused(store):
    result = clip()
    with pytest.raises(StoreError, match=r"frames: expected \[9, 32, 32, 3\]"):
        store.add(Result(result.frames, result.latent, 8, {}, result.recipe | {"num_frames": 9}))


def test_closed_means_closed(store):
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.list()


def test_a_second_instance_is_refused(store, folder):
    with pytest.raises(StoreError, match=f"in use by process {os.getpid()}; close the other Rushes"):
        Store(folder)
    run = subprocess.run([sys.executable, "-c", "import sys; from turbo_engine.store import Store; Store(sys.argv[1])", folder],
                         cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert run.returncode == 1 and "in use by process" in run.stderr
    store.add(clip())                                              # the first one does not notice
    store.close()
    Store(folder).close()


def test_without_flock_the_database_lock_stands(folder, monkeypatch):
    monkeypatch.setattr(store_open, "fcntl", None)
    with Store(folder) as first:
        entry = first.add(clip())
        with pytest.raises(StoreError, match="close the program that has it open"):
            Store(folder)
        assert first.list() == [entry]


def test_a_locked_database_is_no_damaged_one(folder):
    with Store(folder) as opened:
        entry = opened.add(clip())
    other = sqlite3.connect(folder / "history.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked; close the program"):
        Store(folder)
    other.close()
    assert not list(folder.glob("*damaged*"))
    with Store(folder) as again:
        assert again.list() == [entry]


def test_a_newer_schema_is_refused_and_left_alone(folder):
    with Store(folder) as opened:
        opened.add(clip())
    db = sqlite3.connect(folder / "history.sqlite3")
    db.execute("PRAGMA user_version = 2")
    db.close()

    def everything():
        return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != "history.lock"}

    (folder / "clips" / ".AAAAAAAAAAAAAAAA.mp4.1.part").write_bytes(b"not ours to sweep")
    before = everything()
    with pytest.raises(StoreError, match="version 1, found 2, written by a newer Rushes"):
        Store(folder)
    assert everything() == before


def test_no_torch():
    code = "import sys, turbo_engine.store; assert not {'torch', 'av', 'cv2', 'gradio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=30)


# What it survives

NURSERY = """
import os, signal, sys, time
sys.path[:0] = ["tests", "."]
import av, cv2
from test_store import KINDS, Store, save_forever
# Each line: what to run in a child, the folder, a number, seconds to its death.
for line in sys.stdin:
    what, folder, number, delay = line.split()
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            with os.fdopen(writer, "w") as out:
                print("ready", file=out, flush=True)
                Store(folder).close() if what == "open" else save_forever(KINDS[what](folder), int(number), out)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        said.readline()
        time.sleep(float(delay))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        print(*said.read().split("\\n")[:-1], flush=True)
"""


def save_forever(store: Store, seed: int, out) -> None:
    """Save, star, replace, delete and sweep. Says +id of what is safe, -id before it may go."""
    while True:
        result = clip(f"clip {seed}") if seed % 3 else clip("the same again")
        if old := store.find(result.recipe):
            print(f"-{old.id}", file=out, flush=True)
        entry = store.add(result)
        print(f"+{entry.id}", file=out, flush=True)
        if seed % 5 == 0:
            store.star(entry.id, True)
        if seed % 4 == 0:
            print(f"-{entry.id}", file=out, flush=True)
            store.delete(entry.id)
            store.sweep(0)
        seed += 1


class RowFirst(Store):
    """The naive order that a row may outlive: the row is committed, then the files are written."""

    def add(self, result, **_):
        waiting, self._files.write = [], lambda *files: waiting.append(files)
        entry = super().add(result)
        for clip_id, mp4, packed in waiting:
            write_plainly(self._files, clip_id, mp4, packed)
        return entry


class InPlace(Store):
    """The naive way that a listing of the folder may see: files grow under their own names."""

    def add(self, result, **_):
        self._files.write = lambda *files: write_plainly(self._files, *files)
        return super().add(result)


def write_plainly(files, clip_id: str, mp4: bytes, packed: bytes) -> None:
    for suffix, data in (("mp4", mp4), ("npz", packed)):
        with open(files.path(clip_id, suffix), "wb", buffering=0) as file:
            for start in range(0, len(data), 1024):                # as an encoder writes: in pieces, with work in between
                file.write(data[start:start + 1024])
                time.sleep(0.0005)


KINDS = {"save": Store, "row-first": RowFirst, "in-place": InPlace}


class Nursery:
    """Kills children at chosen instants. A process of its own, so that imports are paid once and pytest is never forked."""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-c", NURSERY], cwd=ROOT, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        return self

    def kill(self, what: str, folder: Path, number: int, delay_s: float) -> list[str]:
        self.process.stdin.write(f"{what} {folder} {number} {delay_s}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the nursery died"
        return line.split()

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


def check_whole(folder: Path) -> set[str]:
    """Open, hold the history to its promise, and return the ids it lists."""
    with Store(folder) as opened:
        entries = opened.list(limit=1000)
        for entry in entries:
            assert count_frames(entry.mp4) == entry.num_frames == 5
            assert opened.latent(entry.id).shape == (8, 2, 4, 4) and opened.thumbnail(entry.id)[:2] == b"\xff\xd8"
        files = {file.name for file in (folder / "clips").iterdir()}
        assert not any(name.endswith(".part") for name in files)
        rows = {row[0] for row in opened._read("SELECT id FROM clips")}
        assert {name.partition(".")[0] for name in files} == rows
        assert opened._read("PRAGMA integrity_check") == [("ok",)]
    return {entry.id for entry in entries}


def kill_saves(tmp_path: Path, kills: int, kind: str = "save") -> int:
    """Kill a writer that often, and hold what it leaves to the promise each time. Returns: what the writers said to have saved."""
    chance, saves = random.Random(1), 0
    with Nursery() as nursery:
        for kill in range(kills):
            folder = tmp_path / str(kill // 10)                    # ten kills a folder: what one left, the next must bear
            said = nursery.kill(kind, folder, kill * 100, chance.uniform(0.0, 0.25))
            safe = {word[1:] for word in said if word[0] == "+"} - {word[1:] for word in said if word[0] == "-"}
            assert safe <= check_whole(folder)
            saves += len(said)
    return saves


def test_killed_at_any_instant_of_a_save(tmp_path):
    assert kill_saves(tmp_path, 40) >= 20                          # the children did save; how much hangs on the load


@pytest.mark.parametrize("kind", ["row-first", "in-place"])
def test_the_naive_orders_fail_the_same_test(tmp_path, kind):
    with pytest.raises((AssertionError, StoreError, av.error.FFmpegError)):
        kill_saves(tmp_path, 40, kind)


def test_files_reach_the_disk_before_their_row(store, monkeypatch):
    """The order that a power cut needs: each file synced, renamed, the folder synced, and only then the commit."""
    seen, fsync, replace = [], os.fsync, os.replace

    def watch_fsync(handle):
        seen.append("sync " + ("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file"))
        fsync(handle)

    def watch_replace(source, target):
        seen.append(f"rename {Path(target).suffix}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watch_fsync)
    monkeypatch.setattr(os, "replace", watch_replace)
    store._db.set_trace_callback(lambda sql: seen.append(sql.split()[0]))
    store.add(clip())
    files = ["sync file", "rename .npz", "sync folder", "sync file", "rename .mp4", "sync folder"]
    assert seen[:6] == files and seen[6] == "BEGIN" and seen.count("COMMIT") == 1
    assert store._read("PRAGMA synchronous") == [(2,)] and store._read("PRAGMA journal_mode") == [("wal",)]


def bad_header(path: Path) -> None:
    with open(path, "r+b") as file:
        file.write(os.urandom(100))


def truncated(path: Path) -> None:
    os.truncate(path, max(path.stat().st_size * 2 // 3 - 77, 0))


def garbage_page(path: Path) -> None:
    content = path.read_bytes()                                    # a page of thumbnails: the -wal holds no newer one
    with open(path, "r+b") as file:
        file.seek(content.index(b"\xff\xd8\xff", len(content) // 2) // 4096 * 4096)
        file.write(os.urandom(4096))


def wrong_schema(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("ALTER TABLE clips RENAME COLUMN words TO word")
    db.commit()
    db.close()


def lost(path: Path) -> None:
    for suffix in ("", "-wal"):
        path.with_name(path.name + suffix).unlink()


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """120 clips, some starred, one replaced; the folder as a kill leaves it, with its -wal."""
    folder = tmp_path_factory.mktemp("filled") / "data"
    with Store(folder) as opened:
        entries = [opened.add(clip(f"clip {seed}", seed)) for seed in range(121)]
        entries[7] = opened.add(clip("clip 7", 7))
    with Store(folder) as opened:
        for entry in entries[::10]:
            opened.star(entry.id, True)
        shutil.copytree(folder, folder.with_name("killed"))
        return folder.with_name("killed"), opened.list(limit=1000)


@pytest.mark.parametrize("damage", [bad_header, truncated, garbage_page, wrong_schema, lost])
def test_a_damaged_database_is_moved_aside_and_made_anew(filled, tmp_path, damage):
    source, entries = filled
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    (folder / "clips" / "holiday.mp4").write_bytes(b"somebody else's")
    assert (folder / "history.sqlite3-wal").stat().st_size         # the stars are in there
    damage(folder / "history.sqlite3")
    damaged = {file.name.removeprefix("history.sqlite3"): file.read_bytes() for file in folder.glob("history.sqlite3*")}
    with Store(folder) as again:
        listed = again.list(limit=1000)
        assert [(entry.id, entry.created, entry.recipe, entry.took_s, entry.starred) for entry in listed] \
            == [(entry.id, entry.created, entry.recipe, entry.took_s, entry.starred) for entry in entries]
        assert again.latent(listed[0].id).any() and again.thumbnail(listed[0].id)[:2] == b"\xff\xd8"
        assert len(again.notes) == 1 and (damage is lost or "was damaged" in again.notes[0])
    aside = list(folder.glob("*.damaged-*"))
    kept = [file.read_bytes() for file in aside]
    assert [name for name, content in damaged.items() if content not in kept] == []         # sidecars and all
    assert (folder / "clips" / "holiday.mp4").exists()
    with Store(folder) as third:
        assert third.notes == [] and len(third.list(limit=1000)) == len(entries)
    assert list(folder.glob("*.damaged-*")) == aside


def test_damaged_sidecars_and_latents_cost_no_clip(filled, tmp_path):
    source, entries = filled
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    (folder / "history.sqlite3").unlink()
    (folder / "history.sqlite3-wal").write_bytes(os.urandom(5000))
    (folder / "clips" / f"{entries[0].id}.npz").write_bytes(b"PK\x03\x04 half")
    with Store(folder) as again:
        assert {entry.id for entry in again.list(limit=1000)} == {entry.id for entry in entries}
        with pytest.raises(StoreError, match="make the clip again"):
            again.latent(entries[0].id)
        assert again.thumbnail(entries[0].id)[:2] == b"\xff\xd8" and again.get(entries[0].id).took_s is None


def test_killed_while_it_recovers(filled, tmp_path):
    kill_recoveries(filled, tmp_path, (bad_header, truncated, garbage_page) * 3)


def kill_recoveries(filled, tmp_path: Path, damages) -> None:
    source, entries = filled
    folder = tmp_path / "data"
    shutil.copytree(source, folder)
    chance = random.Random(2)
    with Nursery() as nursery:
        for damage in damages:
            with suppress(FileNotFoundError, ValueError, sqlite3.Error):       # no database yet, no thumbnail in it, no schema
                damage(folder / "history.sqlite3")
            nursery.kill("open", folder, 0, chance.uniform(0.0, 0.15))
    assert check_whole(folder) == {entry.id for entry in entries}


def test_a_row_whose_files_were_taken_away_goes(store, folder):
    gone, stays = store.add(clip(seed=1)), store.add(clip(seed=2))
    store.close()
    gone.mp4.unlink()
    assert check_whole(folder) == {stays.id}


FILL = """
import resource, sys
sys.path[:0] = ["tests", "."]
from test_store import Store, StoreError, clip
store, entries = Store(sys.argv[1]), []
if sys.argv[2] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, resource.RLIM_INFINITY))
try:
    for seed in range(200):
        entries.append(store.add(clip(seed=seed)))
except StoreError as error:
    print(error)
assert store.list(limit=1000) == entries[::-1], (len(entries), len(store.list()))
assert store._read("PRAGMA integrity_check") == [("ok",)]
assert not list((store.folder / "clips").glob(".*")) and len(list((store.folder / "clips").iterdir())) == 2 * len(entries)
store.close()
with Store(sys.argv[1]) as again:
    assert again.list(limit=1000) == entries[::-1] and again.notes == []
print(len(entries))
"""


@pytest.mark.parametrize("how", ["tmpfs", "limit"])
def test_a_full_disk_is_said_and_leaves_no_row(tmp_path, how):
    """A 1 MiB file system of its own, and a limit on file size that stops the database, not the clips."""
    fill_up(tmp_path, how)


def fill_up(tmp_path: Path, how: str, size_kib: int = 1024) -> None:
    command = [sys.executable, "-c", FILL, tmp_path, how]
    if how == "tmpfs":
        mount = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size={size_kib}k none "$0" && exec "$@"', tmp_path]
        if not shutil.which("unshare") or subprocess.run([*mount, "true"], capture_output=True).returncode:
            pytest.skip("this machine lets us mount no tmpfs")
        command = [*mount, *command]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    said, count = run.stdout.splitlines()
    assert {"tmpfs": "expected room on the disk, found: ", "limit": "expected the disk to take it, found: "}[how] in said
    assert "free some space" in said and int(count) < 200 and (int(count) > 0 or size_kib < 1024)


def test_eight_threads(store, folder):
    problems, results = [], [clip(f"clip {seed}", seed) for seed in range(12)]

    def work(seed):
        chance = random.Random(seed)
        try:
            for _ in range(60):
                entries = store.list(chance.choice(["", "clip", "7"]), limit=20)
                entry = chance.choice(entries) if entries else store.add(results[0])
                act = chance.randrange(8)
                try:
                    if act == 0:
                        store.add(chance.choice(results))
                    elif act == 1:
                        store.star(entry.id, chance.random() < 0.5)
                    elif act == 2:
                        store.delete(entry.id)
                        store.undelete(entry.id)
                    elif act == 3:
                        store.delete(entry.id)
                    elif act == 4:
                        store.sweep(0.01)
                    elif act == 5:
                        store.latent(entry.id)
                    elif act == 6:
                        store.set_setting("last", entry.id)
                    else:
                        store.thumbnail(entry.id)
                except StoreError as error:
                    if "expected the id" not in str(error) and "No such file" not in str(error):
                        raise                                      # another thread may have deleted it first, no more
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    store.close()
    check_whole(folder)


@pytest.mark.clock
def test_twenty_thousand_clips_stay_fast(store):
    """p95 of a list, a page far down and searches that match all, few and none. The target holds for 50,000."""
    words = "fox snow harbour lantern cedar violin orbit canyon ember tide glass willow".split()
    chance, recipe = random.Random(3), clip().recipe
    with store._change() as db:
        for number in range(20_000):
            prompt = " ".join(chance.choices(words, k=18)) + (" needle" if number % 5000 == 0 else "")
            row = (f"{number:016d}", f"{number}", float(number), 1.0, int(number % 50 == 0), None, prompt,
                   json.dumps(recipe | {"prompt": prompt}))
            db.execute("INSERT INTO clips VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
    asked = [{}, {"before": 500.0}, {"query": "fox snow"}, {"query": "needle"}, {"query": "no such word"}, {"starred": True}]
    took_ms = []
    for kind in asked * 8:
        start = time.perf_counter()
        found = store.list(**kind)
        took_ms.append(1000 * (time.perf_counter() - start))
        assert len(found) == {"needle": 4, "no such word": 0}.get(kind.get("query"), 100)
    assert np.percentile(took_ms, 95) <= 100, sorted(took_ms)[-5:]


def test_errors_are_the_apps_own():
    assert issubclass(StoreError, TurboError)
