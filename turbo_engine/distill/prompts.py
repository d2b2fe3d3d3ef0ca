"""The fixed prompts that quality is judged on: 24 to look at, 600 to count, and some of those in other words."""
import random
from collections.abc import Iterator, Sequence
from string import ascii_lowercase

from turbo_engine.distill.captions import caption, parse_caption, with_article
from turbo_engine.distill.world import ClipSpec, World, sample_specs

SHOWCASE = (
    "a penguin bouncing on a beach at sunset, camera zooms in",
    "a dog running to the right in a green meadow",
    "a rocket flying to the right in outer space, camera pans right",
    "a T-Rex jumping in a city at night",
    "an octopus floating underwater, the camera zooms out",
    "a fire engine driving to the left in the desert at noon",
    "a snowman spinning in the snow at night",
    "a cat dancing on a theatre stage",
    "a dragon hovering near an erupting volcano",
    "a sailboat sailing to the right on a beach at sunset",
    "an elephant walking to the left in a forest in autumn",
    "a balloon floating in a green meadow, the camera tilts up",
    "a soccer ball bouncing in a park",
    "a robot doing a backflip on a stage in a spotlight",
    "an owl standing still in the woods, zoom in",
    "a turtle swimming to the right under the sea",
    "a cactus growing in the desert",
    "a ghost floating downtown at night",
    "a puppy hopping by the sea at dusk",
    "a yellow cab driving right in falling snow",
    "a spaceship hovering among the stars, zoom in",
    "bunny jumping, with a teddy bear",
    "giraffe",
    "a video of a cute pony spinning around on the grass please",
)


def counted_prompts(world: World, count: int = 600, held_out: int = 200, seed: int = 20_261_124) -> tuple[list[ClipSpec], list[str]]:
    """Canonical captions of random clips, the last `held_out` of them of triples never trained on. No companions, so that
    each prompt has one subject to be judged by."""
    rng = random.Random(seed)
    specs: list[ClipSpec] = []
    for share, unseen in ((count - held_out, False), (held_out, True)):
        drawn: list[ClipSpec] = []
        while len(drawn) < share:
            drawn += [s for s in sample_specs(world, 16, rng, held_out=unseen) if s.companion is None]
        specs += drawn[:share]
    return specs, [caption(world, spec, rng, canonical=True) for spec in specs]


def batches(prompts: Sequence[str], size: int, first_seed: int = 0) -> Iterator[tuple[list[str], list[int]]]:
    """The prompts in turn, `size` at a time, and a seed for each, counted from the first."""
    for start in range(0, len(prompts), size):
        part = list(prompts[start:start + size])
        yield part, list(range(first_seed + start, first_seed + start + len(part)))


def other_words(world: World, specs: list[ClipSpec], seed: int = 20_261_126) -> dict[str, tuple[list[int], list[str]]]:
    """The same clips said otherwise, by kind: which of the specs, and the prompts. A kind leaves out what cannot be said its way, and
    is left out where nothing can.

    "three words": subject and motion alone. "sentence": synonyms, fillers and any order, with all that the clip shows. "plural". "typing error":
    one letter of the subject wrong, never the first.
    """
    rng, said = random.Random(seed), {"three words": ([], []), "sentence": ([], []), "plural": ([], []), "typing error": ([], [])}

    def say(kind: str, index: int, prompt: str) -> None:
        said[kind][0].append(index)
        said[kind][1].append(prompt)

    for index, spec in enumerate(specs):
        subject, plain = world.subjects[spec.subject], caption(world, spec, rng, canonical=True)
        name, deed = subject.name, next((phrase for phrase in world.motions[spec.motion].phrases if phrase.isalpha()), "")
        if deed and len(with_article(name).split()) == 2 and world.cameras[spec.camera].name == "still":
            say("three words", index, f"{with_article(name)} {deed}")
        say("sentence", index, _whole_sentence(world, spec, rng))
        say("plural", index, plain.replace(with_article(name), name + ("es" if name.endswith(("s", "x", "sh", "ch")) else "s"), 1))
        word = name.split()[-1]
        if len(word) > 4:
            say("typing error", index, plain.replace(word, _mistyped(word, rng), 1))
    return {kind: found for kind, found in said.items() if found[1]}


def _whole_sentence(world: World, spec: ClipSpec, rng: random.Random) -> str:
    """A random caption that says all that there is to see."""
    camera = {} if world.cameras[spec.camera].name == "still" else {"camera": spec.camera}
    wanted = {"subject": spec.subject, "scene": spec.scene, "motion": spec.motion, **camera}
    while True:
        text = caption(world, spec, rng)
        found = parse_caption(world, text)
        if all(found.get(kind) == index for kind, index in wanted.items()):
            return text


def _mistyped(word: str, rng: random.Random) -> str:
    """One letter dropped, changed, added or swapped with the next, anywhere but at the beginning."""
    at, other = rng.randrange(1, len(word) - 1), rng.choice(ascii_lowercase)
    rest = rng.choice((word[at + 1:], other + word[at + 1:], other + word[at:], word[at + 1] + word[at] + word[at + 2:]))
    return word[:at] + rest if rest != word[at:] else _mistyped(word, rng)
