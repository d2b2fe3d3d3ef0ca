"""The world the pocket model is taught: its words, and how one clip of it is described.

`presets/pocket/world.toml` is the single source of truth; this module reads it into frozen dataclasses, draws clips and
says which triples of subject, scene and motion are held out to measure composition. No torch here: the page reads it too.
"""

from __future__ import annotations

import hashlib
import random
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

WORLD_FILE = Path(__file__).resolve().parents[2] / "presets" / "pocket" / "world.toml"

MOVES = ("walks", "flies", "swims", "drives", "rolls", "aircraft", "boat", "drifts", "plant", "object")
FACES = ("left", "right", "none")
_NO_SIDE = ("rolls", "drifts", "plant", "object")   # art of these classes looks nowhere
HELD_OUT_PERCENT = 5
COMPANION_SHARE = 0.10
MOTION_WEIGHTS = {"still": 2}      # how often one is drawn, where not once
TAUGHT_MOTIONS = {"flip": 4, "spin": 4, "sway": 2}    # the same, in training all but the probe: what changes its shape is learned last
CROSSINGS = ("left", "right")    # motions through the whole frame, which take place nowhere


@dataclass(frozen=True)
class Subject:
    """One nameable thing with a picture. See world.toml for the meaning of each field."""

    name: str
    also: tuple[str, ...]
    moves: str
    faces: str
    art: str

    def __post_init__(self):
        if self.moves not in MOVES:
            raise ValueError(f"{self.name}: moves: expected one of {', '.join(MOVES)}, got {self.moves!r}")
        if self.faces not in FACES:
            raise ValueError(f"{self.name}: faces: expected one of {', '.join(FACES)}, got {self.faces!r}")


@dataclass(frozen=True)
class Named:
    """A scene, motion or camera: its name in code, and the phrases that mean it (the first is canonical)."""

    name: str
    phrases: tuple[str, ...]


@dataclass(frozen=True)
class Place(Named):
    """Where a subject stands. x: of its middle, screen units, -1 is the left edge and 1 the right."""

    x: float


@dataclass(frozen=True)
class World:
    """Everything the pocket model can be asked for; clips refer to it by index."""

    subjects: tuple[Subject, ...]
    scenes: tuple[Named, ...]
    motions: tuple[Named, ...]
    cameras: tuple[Named, ...]
    places: tuple[Place, ...]
    companion_phrases: tuple[str, ...]
    verbs: dict[str, tuple[str, ...]]

    def __post_init__(self):
        owner: dict[str, str] = {}
        for subject in self.subjects:
            for phrase in (subject.name, *subject.also):
                key = phrase.lower()
                if key in owner:
                    raise ValueError(f"world.toml: {phrase!r} names both {owner[key]!r} and {subject.name!r}")
                owner[key] = subject.name

    @cached_property
    def _indices(self) -> dict[str, dict[str, int]]:
        kinds = ("subjects", "scenes", "motions", "cameras")
        return {kind: {item.name: i for i, item in enumerate(getattr(self, kind))} for kind in kinds}

    @cached_property
    def lexicon(self) -> dict[str, tuple[tuple[str, int], ...]]:
        """Every taught phrase in lower case with the index it means, longest first, by kind: subject, scene, motion, camera, place."""
        verbs = {verb for group in self.verbs.values() for verb in group}
        pairs = {
            "subject": {(p, i) for i, s in enumerate(self.subjects) for p in (s.name, *s.also)},
            "scene": {(p, i) for i, scene in enumerate(self.scenes) for p in scene.phrases},
            "motion": {(p.format(verb=v), i) for i, motion in enumerate(self.motions) for p in motion.phrases for v in verbs},
            "camera": {(p, i) for i, camera in enumerate(self.cameras) for p in camera.phrases},
            "place": {(p, i) for i, place in enumerate(self.places) for p in place.phrases},
        }
        return {
            kind: tuple(sorted(((p.lower(), i) for p, i in found), key=lambda pair: (-len(pair[0]), pair[0])))
            for kind, found in pairs.items()
        }

    def subject(self, name: str) -> int:
        """Index of a subject by name; likewise below. Raises KeyError for a name the world lacks."""
        return self._indices["subjects"][name]

    def scene(self, name: str) -> int:
        return self._indices["scenes"][name]

    def motion(self, name: str) -> int:
        return self._indices["motions"][name]

    def camera(self, name: str) -> int:
        return self._indices["cameras"][name]

    def crosses(self, spec: ClipSpec) -> bool:
        """Whether the subject goes through the whole frame, so that it has no place."""
        return self.motions[spec.motion].name in CROSSINGS


@dataclass(frozen=True)
class ClipSpec:
    """What happens in one clip. Indices are into World.

    place: where the subject stands; means little where it crosses the frame, through the middle always.
    companion_side: -1 left, 1 right of the subject, where that leaves as much room; means nothing without a companion.
    """

    subject: int
    scene: int
    motion: int
    camera: int
    companion: int | None = None
    place: int = 1
    companion_side: int = 1


def load_world(path: Path = WORLD_FILE) -> World:
    """Read world.toml. Raises: ValueError naming an unknown key, class or a phrase with two owners."""
    with open(path, "rb") as file:
        table = tomllib.load(file)
    known = {"subjects", "scenes", "motions", "cameras", "places", "companion_phrases", "verbs"}
    if unknown := set(table) - known:
        raise ValueError(f"{path.name}: unknown key {min(unknown)!r}, known keys are {', '.join(sorted(known))}")
    named = {
        kind: tuple(Named(row["name"], tuple(row["phrases"])) for row in table[kind])
        for kind in ("scenes", "motions", "cameras")
    }
    return World(
        subjects=tuple(_subject(row, path.name) for row in table["subjects"]),
        places=tuple(Place(row["name"], tuple(row["phrases"]), row["x"]) for row in table["places"]),
        companion_phrases=tuple(table["companion_phrases"]),
        verbs={moves: tuple(table["verbs"][moves]) for moves in MOVES},
        **named,
    )


def _subject(row: dict, file: str) -> Subject:
    known = {"name", "also", "moves", "faces", "art"}
    if unknown := set(row) - known:
        raise ValueError(f"{file} subject {row.get('name')!r}: unknown key {min(unknown)!r}")
    return Subject(
        name=row["name"],
        also=tuple(row["also"]),
        moves=row["moves"],
        faces=row.get("faces", "none" if row["moves"] in _NO_SIDE else "left"),
        art=row.get("art", row["name"]),
    )


def is_held_out(spec: ClipSpec) -> bool:
    """Whether the triple subject x scene x motion is one of the 5 % never trained on.

    A hash of the indices, so that it is the same in every process; camera, place and companion do not matter.
    """
    key = f"{spec.subject}/{spec.scene}/{spec.motion}".encode()
    return int.from_bytes(hashlib.blake2s(key, digest_size=4).digest(), "little") % 100 < HELD_OUT_PERCENT


def sample_specs(
    world: World, count: int, rng: random.Random, *, held_out: bool = False, scene: int | None = None,
    motion_weights: Mapping[str, float] = MOTION_WEIGHTS, subject_weights: Sequence[float] | None = None
) -> list[ClipSpec]:
    """Draw clips: subject and scene uniform; motion by its weight; the camera still in 3 of 9; a companion in 10 %.

    Args:
        held_out: draw only held-out triples instead of none of them.
        scene: draw this scene only.
        motion_weights: how often motions are drawn, by name; once where it has none.
        subject_weights: how often subjects are drawn, in the world's order; all alike by default.
    """
    specs = []
    camera_weights = [3 if camera.name == "still" else 1 for camera in world.cameras]
    weights = [motion_weights.get(motion.name, 1) for motion in world.motions]
    while len(specs) < count:
        subject = rng.randrange(len(world.subjects)) if subject_weights is None else rng.choices(range(len(world.subjects)), subject_weights)[0]
        motion = rng.choices(range(len(world.motions)), weights)[0]
        companion = None
        if rng.random() < COMPANION_SHARE:
            companion = (subject + rng.randrange(1, len(world.subjects))) % len(world.subjects)
        spec = ClipSpec(
            subject=subject,
            scene=rng.randrange(len(world.scenes)) if scene is None else scene,
            motion=motion,
            camera=rng.choices(range(len(world.cameras)), camera_weights)[0],
            companion=companion,
            place=rng.randrange(len(world.places)),
            companion_side=rng.choice((-1, 1)),
        )
        if is_held_out(spec) == held_out:
            specs.append(spec)
    return specs
