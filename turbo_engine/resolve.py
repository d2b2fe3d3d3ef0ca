"""From a Request with blanks to one without: every choice checked against the preset before any work starts."""
import math
from dataclasses import replace

from turbo_engine.errors import RequestError
from turbo_engine.models.config import latent_frames
from turbo_engine.presets import FULL_SAMPLERS, TURBO_SAMPLERS, Preset
from turbo_engine.types import Request

MAX_PROMPT = 2_000           # characters; a model reads far fewer, this only stops accidents
MAX_GUIDANCE = 20.0


def parse_size(text: str | None) -> tuple[int | None, int | None]:
    """"832x480" -> (832, 480), width first; (None, None) of None, which is the preset's choice. Raises: RequestError."""
    if text is None:
        return None, None
    width, _, height = text.lower().partition("x") if isinstance(text, str) else ("", "", "")
    if not (width.isdecimal() and height.isdecimal()):
        raise RequestError(f"size: expected WIDTHxHEIGHT, got {text!r}; try 256x256")
    return int(width), int(height)


def resolve(request: Request, preset: Preset) -> Request:
    """The same request with no field None. Raises: RequestError: what, expected, got, and the way out."""
    clip = preset.clip
    if request.mode not in ("turbo", "full"):
        raise RequestError(f"mode: expected turbo or full, got {request.mode!r}; try turbo")
    settings, samplers = (preset.turbo, TURBO_SAMPLERS) if request.mode == "turbo" else (preset.full, FULL_SAMPLERS)
    _check_text("prompt", request.prompt)
    if not request.prompt.strip():
        raise RequestError("prompt: expected a few words, got none; try \"a penguin bouncing on a beach at sunset\"")
    _check_text("negative_prompt", request.negative_prompt)
    seed = _whole("seed", request.seed, 0, 2 ** 63 - 1, hint="try 0")

    if preset.takes_image and not request.image:
        raise RequestError(f"image: expected a picture to start from, as {preset.name} makes clips out of one, got none; add a picture")
    if request.image and not preset.takes_image:
        raise RequestError(f"image: expected none, as {preset.name} starts from words alone, got one; leave it out")
    num_frames = clip.num_frames if request.num_frames is None else request.num_frames
    _whole("num_frames", num_frames, 1, clip.max_num_frames, hint=f"try {clip.num_frames}")
    try:
        latent_frames(num_frames)
    except ValueError as error:
        raise RequestError(str(error)) from error
    size = (clip.width if request.width is None else request.width,
            clip.height if request.height is None else request.height)
    if size not in clip.menu:
        raise RequestError(f"size: expected one of {', '.join(clip.sizes)}, got {size[0]}x{size[1]}; "
                           f"try {clip.width}x{clip.height}")

    num_steps = settings.num_steps if request.num_steps is None else request.num_steps
    _whole("num_steps", num_steps, 1, settings.max_steps, hint=f"try {settings.num_steps}", where=f" in {request.mode} mode")
    sampler = settings.sampler if request.sampler is None else request.sampler
    if sampler not in samplers:
        raise RequestError(f"sampler: expected one of {', '.join(samplers)} in {request.mode} mode, got {sampler!r}; "
                           f"try {settings.sampler}")
    guidance = 1.0                                              # distilled into the student
    if request.mode == "full":
        guidance = settings.guidance_scale if request.guidance_scale is None else request.guidance_scale
        number = isinstance(guidance, (int, float)) and not isinstance(guidance, bool) and math.isfinite(guidance)
        if not (number and 1 <= guidance <= MAX_GUIDANCE):
            raise RequestError(f"guidance_scale: expected 1 to {MAX_GUIDANCE:g}, got {guidance!r}; "
                               f"try {settings.guidance_scale:g}")
    if request.preview_steps is None:
        previews = tuple(step for step in settings.preview_steps if step < num_steps)
    else:
        previews = tuple(_whole("preview_steps", step, 1, num_steps, hint="try 1") for step in request.preview_steps)
    return replace(request, seed=seed, num_frames=num_frames, width=size[0], height=size[1], num_steps=num_steps,
                   sampler=sampler, guidance_scale=float(guidance), preview_steps=previews)


def _check_text(name: str, text: object) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{name}: expected text, got {type(text).__name__}; type some words")
    if len(text) > MAX_PROMPT:
        raise RequestError(f"{name}: expected at most {MAX_PROMPT:,} characters, got {len(text):,}; shorten it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name}: expected readable text, got a broken character at position {error.start + 1}; "
                           "delete it") from error


def _whole(name: str, value: object, low: int, high: int, *, hint: str, where: str = "") -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        got = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else repr(value)
        raise RequestError(f"{name}: expected a whole number from {low} to {high}{where}, got {got}; {hint}")
    return value
