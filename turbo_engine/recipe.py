"""What a clip is made from, as it rides inside its file: enough to make the same one again."""
import hashlib

from turbo_engine.presets import Preset
from turbo_engine.types import Request

RECIPE_VERSION = 1
_WHAT_RAN = ("device", "device_name", "precision", "threads", "torch", "kernels", "weights")


def recipe_of(preset: Preset, plan: Request, nfe: int, about: dict) -> dict:
    """The JSON-ready recipe of a finished clip. plan: as `resolve` returns it. about: the engine's `describe()`."""
    return {"schema": RECIPE_VERSION, "app": "rushes", "preset": preset.name, "prompt": plan.prompt,
            "negative_prompt": plan.negative_prompt, "seed": plan.seed, "mode": plan.mode, "sampler": plan.sampler,
            "num_steps": plan.num_steps, "nfe": nfe, "guidance_scale": plan.guidance_scale, "width": plan.width,
            "height": plan.height, "num_frames": plan.num_frames, "fps": preset.clip.fps,
            **({"image_sha256": hashlib.sha256(plan.image).hexdigest()} if plan.image else {}),
            **{key: about[key] for key in _WHAT_RAN}}
