"""A preset: TOML on disk, a frozen dataclass in memory. No torch here: the page reads presets too.

`presets/NAME.toml` holds the numbers; weights and vocabulary of our own model lie in the folder `presets/NAME/` beside it, those
of the Wan family where the user has them.
"""
import math
import tomllib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import get_args, get_origin, get_type_hints

from turbo_engine.errors import PresetError
from turbo_engine.models.config import (
    TIMESTEP_ROUNDINGS,
    DiTConfig,
    TinyVAEConfig,
    UMT5Config,
    VAEConfig,
    WanVAEConfig,
    latent_frames,
)

PRESETS_DIR = Path(__file__).resolve().parents[1] / "presets"
TURBO_SAMPLERS = ("sde", "fixed-noise", "ode")
FULL_SAMPLERS = ("unipc",)
TEXT_ENCODERS = ("minilm", "umt5")


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _check_steps(num_steps: int, max_steps: int, limit: int, preview_steps: tuple[int, ...]) -> None:
    _check(1 <= max_steps <= limit, f"max_steps: expected 1 to {limit}, got {max_steps}")
    _check(1 <= num_steps <= max_steps, f"num_steps: expected 1 to max_steps = {max_steps}, got {num_steps}")
    _check(all(1 <= s <= max_steps for s in preview_steps),
           f"preview_steps: expected steps from 1 to {max_steps}, got {list(preview_steps)}")


def _check_rounding(rounding: str) -> None:
    _check(rounding in TIMESTEP_ROUNDINGS, f"rounding: expected one of {', '.join(TIMESTEP_ROUNDINGS)}, got {rounding!r}")


@dataclass(frozen=True)
class ClipSettings:
    """The clip made unless a request says otherwise, and what a request may ask for. Sizes are "WIDTHxHEIGHT" in pixels."""

    num_frames: int
    height: int
    width: int
    fps: int
    sizes: tuple[str, ...]
    lengths: tuple[int, ...]
    max_num_frames: int

    def __post_init__(self):
        named = (("max_num_frames", self.max_num_frames), ("num_frames", self.num_frames), *(("lengths", n) for n in self.lengths))
        for name, length in named:
            _check(length % 4 == 1, f"{name}: expected 4k + 1, got {length}")
            _check(1 <= length <= self.max_num_frames, f"{name}: expected 1 to max_num_frames = {self.max_num_frames}, got {length}")
        _check(self.num_frames in self.lengths, f"lengths: expected the default {self.num_frames} among them, got {list(self.lengths)}")
        _check(self.fps > 0, f"fps: expected a positive number, got {self.fps}")
        _check(f"{self.width}x{self.height}" in self.sizes,
               f"sizes: expected the default {self.width}x{self.height} among them, got {', '.join(self.sizes)}")
        _check(len(self.menu) > 0, "sizes: expected at least one, got none")

    @property
    def menu(self) -> tuple[tuple[int, int], ...]:
        """Sizes offered, (width, height) in pixels."""
        sizes = []
        for text in self.sizes:
            width, _, height = text.partition("x")
            _check(width.isdecimal() and height.isdecimal(), f"sizes: expected WIDTHxHEIGHT such as '256x256', got {text!r}")
            sizes.append((int(width), int(height)))
        return tuple(sizes)


@dataclass(frozen=True)
class TextSettings:
    """text_len: tokens the model reads. vocabulary: file of the taught world, "" where the model knows no bounds."""

    encoder: str
    text_len: int
    vocabulary: str

    def __post_init__(self):
        _check(self.encoder in TEXT_ENCODERS, f"encoder: expected one of {', '.join(TEXT_ENCODERS)}, got {self.encoder!r}")
        _check(self.text_len >= 4, f"text_len: expected 4 or more, got {self.text_len}")


@dataclass(frozen=True)
class TurboSettings:
    """Few-step sampling of the distilled student. sigma_max: noise std over data std at the start; rounding: of timesteps."""

    num_steps: int
    max_steps: int
    sampler: str
    sigma_max: float
    rounding: str
    preview_steps: tuple[int, ...]

    def __post_init__(self):
        _check_steps(self.num_steps, self.max_steps, 4, self.preview_steps)
        _check_rounding(self.rounding)
        _check(self.sampler in TURBO_SAMPLERS, f"sampler: expected one of {', '.join(TURBO_SAMPLERS)}, got {self.sampler!r}")
        _check(self.sigma_max > 20, f"sigma_max: expected more than 20, the second step's tan(1.5) = 14.1 and room, "
                                    f"got {self.sigma_max}")


@dataclass(frozen=True)
class FullSettings:
    """Many-step sampling of the teacher. shift, t_min: of the flow times; rounding: of timesteps; negative_prompt: where a request has none."""

    num_steps: int
    max_steps: int
    sampler: str
    shift: float
    guidance_scale: float
    negative_prompt: str
    rounding: str
    preview_steps: tuple[int, ...]
    t_min: float = 0.0

    def __post_init__(self):
        _check_steps(self.num_steps, self.max_steps, 1000, self.preview_steps)
        _check_rounding(self.rounding)
        _check(self.sampler in FULL_SAMPLERS, f"sampler: expected one of {', '.join(FULL_SAMPLERS)}, got {self.sampler!r}")
        _check(self.shift > 0, f"shift: expected a positive number, got {self.shift}")
        _check(0 <= self.t_min < 1, f"t_min: expected a time from 0 to below 1, got {self.t_min}")
        _check(self.guidance_scale >= 1, f"guidance_scale: expected 1 or more, got {self.guidance_scale}")


@dataclass(frozen=True)
class SparseSettings:
    """Sparse-linear attention of the distilled model. density: share of key blocks kept; blocks in tokens."""

    density: float
    block_q: int
    block_k: int

    def __post_init__(self):
        _check(0 < self.density <= 1, f"density: expected a share in (0, 1], got {self.density}")


@dataclass(frozen=True)
class ExpertSettings:
    """Two networks in turn. boundary: the flow time from which on the low-noise one works."""

    boundary: float

    def __post_init__(self):
        _check(0 < self.boundary < 1, f"boundary: expected a flow time between 0 and 1, got {self.boundary}")


@dataclass(frozen=True)
class WeightFiles:
    """File names of our own model's weights inside the preset's folder, by role."""

    teacher: str
    student: str
    decoder: str
    encoder: str


@dataclass(frozen=True)
class PublishedFiles:
    """Where a Wan preset's weights are published, each "OWNER/REPO/PATH" on the hub, "" where a model has no such part.

    turbo, full: two each, high-noise before low-noise, where the model has two experts. Found by content, not by these names.
    sha256: by such a name, the digest of the file, where it is known.
    """

    turbo: tuple[str, ...]
    full: tuple[str, ...]
    vae: str
    text_encoder: str
    tokenizer: str
    tiny_vae: str
    sha256: dict[str, str] = field(hash=False)

    def __post_init__(self):
        for name in (*self.turbo, *self.full, self.vae, self.text_encoder, self.tokenizer, self.tiny_vae):
            parts = name.split("/")
            _check(not name or len(parts) >= 3 and all(part.strip(".") for part in parts), f"files: expected OWNER/REPO/PATH or nothing, got {name!r}")
        for name, digest in self.sha256.items():
            _check(len(digest) == 64 and set(digest) <= set("0123456789abcdef"), f"sha256: expected 64 hexadecimal digits for {name}, got {digest!r}")


@dataclass(frozen=True)
class Preset:
    """Everything the engine needs to know of one model family at one size."""

    name: str
    folder: Path
    clip: ClipSettings
    text: TextSettings
    dit: DiTConfig
    vae: VAEConfig | WanVAEConfig
    turbo: TurboSettings
    full: FullSettings
    weights: WeightFiles | None = None
    umt5: UMT5Config | None = None
    tiny_vae: TinyVAEConfig | None = None
    sparse: SparseSettings | None = None
    experts: ExpertSettings | None = None
    files: PublishedFiles | None = None

    def __post_init__(self):
        _check(self.dit.out_channels == self.vae.latent_channels,
               f"dit.out_channels: expected vae.latent_channels = {self.vae.latent_channels}, got {self.dit.out_channels}")
        _check(self.dit.text_len == self.text.text_len,
               f"dit.text_len: expected text.text_len = {self.text.text_len}, got {self.dit.text_len}")
        own = isinstance(self.vae, VAEConfig)
        _check((self.weights is not None) == own and (self.files is None) == own and (self.umt5 is None) == own,
               "sections: expected [weights] with our own autoencoder, [umt5] and [files] with Wan's")
        _check(self.text.encoder == ("minilm" if own else "umt5"), f"text.encoder: expected the one of this family, got {self.text.encoder!r}")
        conditions = (0,) if own else (0, 4 + self.dit.out_channels)
        _check(self.dit.condition_channels in conditions,
               f"dit.in_channels: expected {' or '.join(str(self.dit.out_channels + c) for c in conditions)}, got {self.dit.in_channels}")
        experts = 1 if self.experts is None else 2
        if self.files is not None:
            for role in ("turbo", "full"):
                _check(len(getattr(self.files, role)) == experts, f"files.{role}: expected {experts}, got {len(getattr(self.files, role))}")
        step_h, step_w = (self.vae.spatial_stride * p for p in self.dit.patch_size[1:])
        for width, height in self.clip.menu:
            _check(width % step_w == 0 and height % step_h == 0 and width > 0 and height > 0,
                   f"clip.sizes: expected multiples of {step_w}x{step_h}, got {width}x{height}")

    @property
    def path(self) -> Path:
        """Of the .toml."""
        return self.folder.with_name(f"{self.folder.name}.toml")          # a name may have dots of its own

    @property
    def takes_image(self) -> bool:
        """Whether a clip starts from a picture."""
        return self.dit.condition_channels > 0

    def weights_path(self, role: str) -> Path:
        """Of our own model only."""
        return self.folder / getattr(self.weights, role)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """[C, T, H, W] of a clip's latent."""
        stride = self.vae.spatial_stride
        return self.vae.latent_channels, latent_frames(num_frames), height // stride, width // stride

    def num_tokens(self, num_frames: int, height: int, width: int) -> int:
        """L of a clip in the networks."""
        return math.prod(self.latent_shape(num_frames, height, width)[1:]) // math.prod(self.dit.patch_size)


_SECTIONS = {name: tuple(kind for kind in (get_args(hint) or (hint,)) if is_dataclass(kind))
             for name, hint in get_type_hints(Preset).items() if name not in ("name", "folder")}
_OPTIONAL = {name for name, hint in get_type_hints(Preset).items() if NoneType in get_args(hint)}


def list_presets(folder: Path = PRESETS_DIR) -> list[str]:
    """Names that `load_preset` knows, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_preset(name_or_path: str | Path) -> Preset:
    """Read a preset by name, or by path of a .toml file. Raises: PresetError naming file, section and key."""
    text = str(name_or_path)
    path = Path(text) if text.endswith(".toml") else PRESETS_DIR / f"{text}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PresetError(f"preset: expected one of {', '.join(list_presets())} or a .toml file, got {text!r}") from error
    except OSError as error:
        raise PresetError(f"{path}: expected a readable preset, found: {error.strerror}; check the path") from error
    except ValueError as error:
        raise PresetError(f"{path.name}: expected TOML, found: {error}; mend that line") from error
    _refuse_unknown(path.name, "section", table, _SECTIONS, _OPTIONAL)
    parts = {section: _section(path.name, section, kinds, table[section]) for section, kinds in _SECTIONS.items() if section in table}
    try:
        return Preset(name=path.stem, folder=path.with_suffix(""), **parts)
    except ValueError as error:
        raise PresetError(f"{path.name}: {error}") from error


def _section(file: str, section: str, kinds: tuple[type, ...], table: object):
    """The section as the one of `kinds` that most of its keys belong to."""
    where = f"{file} [{section}]"
    if not isinstance(table, dict):
        raise PresetError(f"{where}: expected a table, got {table!r}")
    kind = max(kinds, key=lambda kind: len({f.name for f in fields(kind)} & set(table)))
    hints = {f.name: get_type_hints(kind)[f.name] for f in fields(kind)}
    _refuse_unknown(where, "key", table, hints, {f.name for f in fields(kind) if f.default is not MISSING})
    values = {key: _value(where, key, hint, table[key]) for key, hint in hints.items() if key in table}
    try:
        return kind(**values)
    except (ValueError, ArithmeticError) as error:
        raise PresetError(f"{where}: {error}") from error


def _refuse_unknown(where: str, what: str, table: dict, known, optional=frozenset()) -> None:
    names = ", ".join(known)
    if unknown := [key for key in table if key not in known]:
        raise PresetError(f"{where}: unknown {what} {unknown[0]!r}, known {what}s are {names}")
    if missing := [key for key in known if key not in table and key not in optional]:
        raise PresetError(f"{where}: {what} {missing[0]!r} is missing, needed {what}s are {names}")


def _value(where: str, key: str, hint, value):
    """One TOML value as the field's type. An int passes for a float, nothing else is converted."""
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        right = isinstance(value, list) and (inner[-1] is Ellipsis or len(value) == len(inner))
        if right and all(type(item) is inner[0] or inner[0] is float and type(item) is int for item in value):
            return tuple(inner[0](item) for item in value)
        length = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        raise PresetError(f"{where}: {key}: expected a list of {length}{inner[0].__name__}, got {value!r}")
    if get_origin(hint) is dict:
        if isinstance(value, dict) and all(type(item) is str for item in value.values()):
            return dict(value)
        raise PresetError(f"{where}: {key}: expected a table of text, got {value!r}")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise PresetError(f"{where}: {key}: expected {hint.__name__}, got {value!r}")
    return value
