"""Kinematics: where the camera looks and how a subject moves, as curves over the frames of a clip.

Screen units: x right, y down, -1..1 over the frame. The camera keeps the horizon, HORIZON, as the centre of its zoom, so that
sky and ground meet at every zoom. All curves start at a canonical phase: bouncing starts on the ground, spinning face on.

They are made for a small network that sees a latent pixel for 16 x 16 x 4 of a clip's: nothing is over in a few frames, whatever need not
turn or change its shape is shifted only, and whatever moves steadily moves by CELL or half of it in four frames, and what swings
does so in 8 or 16 frames, so that one latent frame looks like the next one, moved: what is learned of one serves the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .world import ClipSpec, Subject, World

CELL = 0.125          # a latent pixel, screen units
HORIZON = 0.12        # screen y of the horizon in every scene
GROUND = 0.62         # screen y of a subject's feet
AFLOAT = GROUND - CELL  # the same where there is no ground
GROUNDLESS = ("space",)
CLIP_SECONDS = 2.0    # 33 frames at 16 fps

ZOOM_REACH = 1.3
PAN_REACH = 2 * CELL  # either side, for things at the subject's distance: half a cell in four of 33 frames
TILT_REACH = 2 * CELL
HOVER = CELL          # of what swims or drifts, above the ground
CROSSING = 4 * CELL   # either side: a cell in four frames
SWING = 2 * math.pi * 2  # radians a clip: twice in 33 frames
DEPTH = 0.28          # of a subject, of its width
SIZE = 1.0            # height of a subject's square cell, screen units: half the frame
COMPANION_SHARE = 0.58  # of the subject's size
COMPANION_STEP = 0.09   # its feet are this far behind the subject's, screen units


@dataclass(frozen=True)
class CameraPath:
    """zoom, pan (camera to the right), tilt (camera up; the picture moves down by as much): [T] float32 each."""

    zoom: np.ndarray
    pan: np.ndarray
    tilt: np.ndarray


@dataclass(frozen=True)
class Pose:
    """A sprite over time, before the camera; [T] float32 each.

    x, y: centre of the sprite's cell. angle: radians, clockwise on screen. width, height: of the cell; width is negative where
    the art is mirrored, height where it is upside down. lift: feet above the ground, for the shadow.
    """

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    width: np.ndarray
    height: np.ndarray
    lift: np.ndarray

    def stacked(self) -> np.ndarray:
        return np.stack([self.x, self.y, self.angle, self.width, self.height, self.lift], -1).astype(np.float32)


def progress(num_frames: int) -> np.ndarray:
    """0..1 over the clip, [T]."""
    return np.linspace(0, 1, num_frames, dtype=np.float32)


def ease(t: np.ndarray) -> np.ndarray:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def camera_path(name: str, num_frames: int) -> CameraPath:
    """The path of a named camera (world.toml): a zoom is eased, what pans or tilts moves steadily."""
    t = progress(num_frames)
    e, rest, sweep = ease(t), np.zeros_like(t), 2 * t - 1
    zoom, pan, tilt = {
        "still": (rest + 1, rest, rest),
        "zoom in": (1 + (ZOOM_REACH - 1) * e, rest, rest),
        "zoom out": (ZOOM_REACH - (ZOOM_REACH - 1) * e, rest, rest),
        "pan left": (rest + 1, -PAN_REACH * sweep, rest),
        "pan right": (rest + 1, PAN_REACH * sweep, rest),
        "tilt up": (rest + 1, rest, TILT_REACH * sweep),
        "tilt down": (rest + 1, rest, -TILT_REACH * sweep),
    }[name]
    return CameraPath(zoom, pan, tilt)


def headroom(camera: CameraPath, feet: float, height: float) -> np.ndarray:
    """How far something may rise and stay in the frame, [T], screen units before the camera."""
    return np.maximum((feet - height - HORIZON) + (HORIZON + camera.tilt + 0.96) / camera.zoom, 0.08)


def subject_pose(world: World, spec: ClipSpec, camera: CameraPath) -> Pose:
    """The subject's path. Motion names are those of world.toml; what they look like is here."""
    subject, motion = world.subjects[spec.subject], world.motions[spec.motion].name
    scene = world.scenes[spec.scene].name
    feet = AFLOAT if scene in GROUNDLESS else GROUND
    t = progress(len(camera.zoom))
    rest = np.zeros_like(t)
    hover = _hover(subject, scene)
    rises = headroom(camera, feet - hover, SIZE)
    room = float(rises.min())
    # Zoomed in, the frame is narrower: keep a standing subject near its middle.
    x = rest + world.places[spec.place].x / float(camera.zoom.max()) ** 2
    if spec.companion is not None:                       # make room
        x = x - 0.125 * companion_side(world, spec) / float(camera.zoom.max()) ** 2
    lift, angle, wide, tall, mirror, hinge = rest, rest, rest + 1, rest + 1, rest + 1, None

    if world.crosses(spec):
        x, lift, angle = _travel(subject, scene, _way(world, spec), t, room, camera)
        mirror = rest + (1.0 if subject.faces == "none" or subject.faces == motion else -1.0)
    elif motion == "jump":
        lift = _jump(t, min(0.36, room), 0.12, 0.76)
    elif motion == "flip":
        lift = _jump(t, min(0.36, room), 0.04, 0.92)
        tall, hinge = _turned(t), "middle"
    elif motion == "bounce":
        phase = (2 * t) % 1.0
        fall = 4 * phase * (1 - phase)                   # halfway between a thrown ball's and a spring's: no sharp turn below
        lift = 0.5 * (fall + np.sin(math.pi * phase) ** 2) * min(0.25, room)
    elif motion == "spin":
        wide = _turned(t)
    elif motion == "float":
        level = min(0.36, room - 0.06)
        lift = level * ease(t / 0.5) + 0.04 * np.sin(SWING * (t - 0.5)) * ease((t - 0.4) / 0.2)
    elif motion in ("grow", "shrink"):
        share = ease(t / 0.85)
        tall = 0.50 + 0.58 * (share if motion == "grow" else 1 - share)
        tall = np.minimum(tall, 1 + room / SIZE)
        wide = tall
    elif motion == "sway":
        angle, hinge = 0.12 * np.sin(SWING * t), "feet"
    elif motion == "drop":
        lift = _drop(t, max(0.44, float(rises[0])))
    elif motion == "still":
        tall = _breath(t)
    else:
        raise ValueError(f"motion: {motion!r} is in world.toml and has no kinematics")

    if motion == "still":
        wide = 1 / np.sqrt(tall)                         # breathing keeps the volume
    lift = lift + hover
    height, width = SIZE * tall, SIZE * wide * mirror
    centre = feet - lift - height / 2
    if hinge == "middle":                                # what turns over stays around it
        centre = feet - lift - SIZE / 2
    elif hinge == "feet":                                # and what swings, around its feet
        x = x + np.sin(angle) * height / 2
        centre = feet - lift - np.cos(angle) * height / 2
    return Pose(x, centre, angle, width, height, lift)


def companion_side(world: World, spec: ClipSpec) -> int:
    """-1 left, 1 right: where the subject leaves more room, or comes from."""
    if world.crosses(spec):
        return -_way(world, spec)
    x = world.places[spec.place].x
    return spec.companion_side if x == 0 else (-1 if x > 0 else 1)


def companion_pose(world: World, spec: ClipSpec, camera: CameraPath) -> Pose:
    """The companion stands a little behind, on the side where the subject leaves more room, and breathes."""
    companion, scene = world.subjects[spec.companion], world.scenes[spec.scene].name
    size = SIZE * COMPANION_SHARE
    feet = (AFLOAT if scene in GROUNDLESS else GROUND) - COMPANION_STEP
    t = progress(len(camera.zoom))
    rest = np.zeros_like(t)
    narrowest = float(1 / camera.zoom.max())
    side = companion_side(world, spec)
    reach = min(0.68, max(narrowest - size * 0.42, 0.42)) - 0.2 * float(np.abs(camera.pan).max())
    x = rest + side * reach
    lift = rest + _hover(companion, scene)
    tall = _breath(t)
    mirror = -1.0 if companion.faces == ("left" if side < 0 else "right") else 1.0     # it looks at the subject
    return Pose(x, feet - lift - size * tall / 2, rest, rest + size * mirror, size * tall, lift)


def _way(world, spec):
    """Of what crosses the frame: 1 to the right, -1 to the left."""
    return 1 if world.motions[spec.motion].name == "right" else -1


def _breath(t):
    """How tall what stands still is."""
    return 1 + 0.012 * np.sin(SWING * t)


def _hover(subject: Subject, scene: str) -> float:
    if scene in GROUNDLESS:
        return 0.0
    return HOVER if subject.moves == "drifts" or subject.moves == "swims" and scene == "underwater" else 0.0


def _travel(subject, scene, side, t, room, camera):
    """x, lift and angle of crossing the frame through its middle; the gait belongs to the class."""
    against = float(np.sign(camera.pan[-1] - camera.pan[0])) == -side
    zoomed = float(camera.zoom.max()) > 1.01
    x = side * (CROSSING / 2 if zoomed or against else CROSSING) * (2 * t - 1)
    swing, rest = SWING * t, np.zeros_like(t)
    weightless = scene in GROUNDLESS or scene == "underwater"
    if subject.moves in ("flies", "aircraft"):
        level = min(2 * CELL, room * 0.8)
        return x, level + 0.03 * np.sin(swing), rest - side * 0.06
    if subject.moves == "rolls":
        return x, rest, (x - x[0]) / (0.47 * SIZE)
    if subject.moves == "swims" or (weightless and subject.moves == "walks"):
        return x, HOVER + 0.04 * np.sin(swing), rest
    if subject.moves == "walks":
        return x, 0.05 * SIZE * np.sin(swing) ** 2, rest
    if subject.moves == "boat":
        return x, 0.02 + 0.02 * np.sin(swing), 0.05 * np.cos(swing)
    if subject.moves == "drifts":
        return x, 0.04 + 0.04 * np.sin(swing), rest
    return x, rest, rest


def _jump(t, height, rise, airtime):
    """Lift of a throw that leaves the ground at t = rise and lands airtime later."""
    phase = np.clip((t - rise) / airtime, 0, 1)
    return 4 * phase * (1 - phase) * height


def _turned(t):
    """A toy turned once about an axis through its middle: how wide it looks, negative from behind. Seen edge on it is as wide as it is deep: a
    card's thin edge comes and goes within a latent frame, and is smeared. It is seen from the other side from the first of a latent frame on."""
    turn = np.cos(2 * math.pi * np.clip(t - 0.5 / 32, 0, 1))         # half a frame of 33 late
    return np.where(turn < 0, -1.0, 1.0) * np.hypot(turn, DEPTH * np.sqrt(1 - turn ** 2))


def _drop(t, height):
    """Fall from that high, land at t = 0.68, one small rebound. Returns lift."""
    fall = height * (1 - np.clip(t / 0.68, 0, 1) ** 1.6)
    rebound = np.clip((t - 0.68) / 0.3, 0, 1)
    return fall + 0.06 * 4 * rebound * (1 - rebound)
