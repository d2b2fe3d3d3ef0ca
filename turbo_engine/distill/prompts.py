"""The fixed prompts that quality is judged on: 24 to look at, 600 to count."""
import random

from turbo_engine.distill.captions import caption
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
