"""Captions: from a clip to the words a user would type for it, and back.

Every caption is true of its clip. A motion or a camera that it leaves out is still, so that a bare "penguin" has one meaning and
only scene and place are open. `parse_caption` is the other direction, and the law that
captions are held to; what a page says about words the model never saw is vocabulary.py's.
"""

from __future__ import annotations

import random
import re

from .world import ClipSpec, World

_NO_ARTICLE = ("dice", "cattle", "sunshine", "calamari", "ice cream", "soft serve", "saturn")
_FILLERS = (
    "a video of", "video of", "a clip of", "an animation of", "please show", "show me", "i want to see", "cartoon of",
)
SAID = 0.97              # of captions name the scene, and the subject's place where it has one: the app adds what a user leaves open
_CUTE = ("cute", "little", "happy", "beautiful", "funny", "lovely", "adorable")
STOP_WORDS = frozenset("""
a an the of and with is are it its in on at to from near by next beside please show me i want see video clip animation cartoon
cute little happy beautiful funny lovely adorable small big while camera shot slow then up down as very
this that there these those some one my our your his her their he she they him them who which be being been was were has have for
or but so just also where when over into onto across through around inside outside under below above behind between along towards
toward during out off close alongside photo picture image movie film scene showing
""".split())


def with_article(name: str) -> str:
    """"penguin" -> "a penguin", "owl" -> "an owl", "UFO" -> "a UFO"."""
    if name in _NO_ARTICLE:
        return name
    vowel = name[0].lower() in "aeiou" and not name.startswith(("UFO", "ewe"))
    return ("an " if vowel or name.startswith("SUV") else "a ") + name


def caption(world: World, spec: ClipSpec, rng: random.Random, *, canonical: bool = False) -> str:
    """Words for a clip.

    canonical: "a penguin jumping on a beach at sunset, the camera zooms in": every clause but the place, first phrases, a still camera
    unsaid.
    Otherwise one of many templates; at most about 30 word pieces.
    """
    if canonical:
        return _canonical(world, spec)
    subject = world.subjects[spec.subject]
    name = subject.name if rng.random() < 0.55 else rng.choice(subject.also)
    if rng.random() < 0.06:
        name = f"{rng.choice(_CUTE)} {name}"
    thing = with_article(name) if rng.random() < 0.9 else name
    company = ""
    if spec.companion is not None:
        company = " " + rng.choice(world.companion_phrases).format(a=with_article(_any_name(world, spec.companion, rng)))
    motion = _motion_phrase(world, spec, rng)
    scene = rng.choice(world.scenes[spec.scene].phrases)
    still, at_rest = world.motions[spec.motion].name == "still", world.cameras[spec.camera].name == "still"

    say_motion = rng.random() < (0.55 if still else 1)
    say_scene = rng.random() < SAID
    say_camera = rng.random() < (0.12 if at_rest else 1)
    place = "" if world.crosses(spec) or rng.random() >= SAID else _often_first(world.places[spec.place].phrases, rng)
    placed = f"{thing} {place}" if place and (company or rng.random() < 0.7) else thing
    core = _core(placed, company, motion if say_motion else "", scene if say_scene else "", rng)
    if not (say_motion or say_scene or say_camera or company) and rng.random() < 0.5:
        core = name
    if place and place not in core:
        core = rng.choice([f"{core} {place}", f"{core}, {place}", f"{place}, {core}"])
    if rng.random() < 0.08:
        core = f"{rng.choice(_FILLERS)} {core}"
    if say_camera:
        camera = rng.choice(world.cameras[spec.camera].phrases)
        core = rng.choice([f"{core}, {camera}"] * 5 + [f"{core} {camera}", f"{camera}, {core}", f"{camera}: {core}"])
    return _restyle(core, rng)


def _canonical(world: World, spec: ClipSpec) -> str:
    subject, motion = world.subjects[spec.subject], world.motions[spec.motion]
    company = ""
    if spec.companion is not None:
        company = " " + world.companion_phrases[0].format(a=with_article(world.subjects[spec.companion].name))
    words = motion.phrases[0].format(verb=world.verbs[subject.moves][0])
    text = f"{with_article(subject.name)}{company} {words} {world.scenes[spec.scene].phrases[0]}"
    camera = world.cameras[spec.camera]
    return text if camera.name == "still" else f"{text}, {camera.phrases[0]}"


def _core(thing, company, motion, scene, rng):
    """Put subject, company, motion and scene in some order; "" is a clause left out."""
    being = f"{thing}{company}"
    moving = f" {motion}" if motion else ""
    if motion and rng.random() < 0.12:
        moving = f" is {motion}"
    if not scene:
        return f"{thing}{moving}{company}" if rng.random() < 0.5 else f"{being}{moving}"
    orders = [f"{thing}{moving} {scene}{company}", f"{being}{moving} {scene}", f"{being}{moving} {scene}"]
    if rng.random() < 0.2:
        orders = [f"{scene}, {being}{moving}", f"{scene} {being}{moving}", f"{being} {scene}{moving}", f"{being} {scene},{moving}"]
    return rng.choice(orders)


def _restyle(text: str, rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.06:
        text = text[0].upper() + text[1:] + "."
    elif draw < 0.10:
        text = text[0].upper() + text[1:]
    elif draw < 0.13:
        text = text.lower()
    elif draw < 0.14:
        text = text.upper()
    return f"{text} please" if rng.random() < 0.01 else text


def _any_name(world, index, rng):
    subject = world.subjects[index]
    return subject.name if rng.random() < 0.6 else rng.choice(subject.also)


def _motion_phrase(world, spec, rng):
    verbs = world.verbs[world.subjects[spec.subject].moves]
    verb = verbs[0] if rng.random() < 0.5 else rng.choice(verbs)
    return _often_first(world.motions[spec.motion].phrases, rng).format(verb=verb)


def _often_first(phrases: tuple[str, ...], rng: random.Random) -> str:
    return phrases[0] if rng.random() < 0.4 else rng.choice(phrases)


# -- back from words -------------------------------------------------------------------------------------------------

def parse_caption(world: World, text: str) -> dict:
    """Find taught phrases in free text.

    Returns: dict with the indices found under "subject", "companion", "scene", "motion", "camera", "place" (absent if not found),
    and "unknown": words of the text that belong to nothing taught, in order. Longest phrases win; of two subjects the
    first is the subject unless a companion phrase stands before it.
    """
    rest = " " + " ".join(re.findall(r"[a-z0-9'-]+", text.lower())) + " "
    found: dict = {}
    for kind in ("camera", "motion", "place", "scene"):
        rest, hits = _take(rest, world.lexicon[kind], limit=1)
        if hits:
            found[kind] = hits[0][1]
    rest, hits = _take(rest, world.lexicon["subject"], limit=2)
    hits.sort()
    if len(hits) == 2 and _is_company(rest, hits[0][0]) and not _is_company(rest, hits[1][0]):
        hits.reverse()
    for kind, hit in zip(("subject", "companion"), hits):
        found[kind] = hit[1]
    found["unknown"] = [word for word in re.findall(r"[a-z0-9'-]+", rest) if word not in STOP_WORDS]
    return found


def _is_company(rest: str, position: int) -> bool:
    return re.search(r"(with|next to|beside|near|and)( an?)?[ \x00]*$", rest[:position]) is not None


def _take(rest: str, index: tuple[tuple[str, int], ...], limit: int) -> tuple[str, list[tuple[int, int]]]:
    """Blank out phrases (longest first) in rest. Returns what is left, and (position, index) of each hit."""
    hits = []
    for phrase, item in index:
        while len(hits) < limit and (at := rest.find(f" {phrase} ")) >= 0:
            rest = rest[: at + 1] + "\0" * len(phrase) + rest[at + 1 + len(phrase) :]
            hits.append((at + 1, item))
    return rest, hits
