"""A preset: TOML on disk, a frozen dataclass in memory. No torch here: the page reads presets too.

`presets/NAME.toml` holds the numbers; weights and vocabulary lie in the folder `presets/NAME/` beside it.
"""
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import get_args, get_origin, get_type_hints

from turbo_engine.errors import PresetError
from turbo_engine.models.config import DiTConfig, VAEConfig, latent_frames

PRESETS_DIR = Path(__file__).resolve().parents[1] / "presets"
TURBO_SAMPLERS = ("sde", "fixed-noise", "ode")
FULL_SAMPLERS = ("unipc",)
TEXT_ENCODERS = ("minilm",)


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


def _check_steps(num_steps: int, max_steps: int, limit: int, preview_steps: tuple[int, ...]) -> None:
    _check(1 <= max_steps <= limit, f"max_steps: expected 1 to {limit}, got {max_steps}")
    _check(1 <= num_steps <= max_steps, f"num_steps: expected 1 to max_steps = {max_steps}, got {num_steps}")
    _check(all(1 <= s <= max_steps for s in preview_steps),
           f"preview_steps: expected steps from 1 to {max_steps}, got {list(preview_steps)}")


@dataclass(frozen=True)
class ClipSettings:
    """The clip made unless a request says otherwise, and what a request may ask for. Sizes are "WIDTHxHEIGHT" in pixels."""

    num_frames: int
    height: int
    width: int
    fps: int
    sizes: tuple[str, ...]
    max_num_frames: int

    def __post_init__(self):
        for name in ("num_frames", "max_num_frames"):
            _check(getattr(self, name) % 4 == 1, f"{name}: expected 4k + 1, got {getattr(self, name)}")
        _check(1 <= self.num_frames <= self.max_num_frames,
               f"num_frames: expected 1 to max_num_frames = {self.max_num_frames}, got {self.num_frames}")
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
    """Few-step sampling of the distilled student. sigma_max: noise std over data std at the start."""

    num_steps: int
    max_steps: int
    sampler: str
    sigma_max: float
    preview_steps: tuple[int, ...]

    def __post_init__(self):
        _check_steps(self.num_steps, self.max_steps, 4, self.preview_steps)
        _check(self.sampler in TURBO_SAMPLERS, f"sampler: expected one of {', '.join(TURBO_SAMPLERS)}, got {self.sampler!r}")
        _check(self.sigma_max > 20, f"sigma_max: expected more than 20, the second step's tan(1.5) = 14.1 and room, "
                                    f"got {self.sigma_max}")


@dataclass(frozen=True)
class FullSettings:
    """Many-step sampling of the teacher. shift: of the flow times; integer_timesteps: truncated, as Wan's solver does."""

    num_steps: int
    max_steps: int
    sampler: str
    shift: float
    guidance_scale: float
    integer_timesteps: bool
    preview_steps: tuple[int, ...]

    def __post_init__(self):
        _check_steps(self.num_steps, self.max_steps, 1000, self.preview_steps)
        _check(self.sampler in FULL_SAMPLERS, f"sampler: expected one of {', '.join(FULL_SAMPLERS)}, got {self.sampler!r}")
        _check(self.shift > 0, f"shift: expected a positive number, got {self.shift}")
        _check(self.guidance_scale >= 1, f"guidance_scale: expected 1 or more, got {self.guidance_scale}")


@dataclass(frozen=True)
class WeightFiles:
    """File names inside the preset's folder, by role."""

    teacher: str
    student: str
    decoder: str
    encoder: str


@dataclass(frozen=True)
class Preset:
    """Everything the engine needs to know of one model family at one size."""

    name: str
    folder: Path
    clip: ClipSettings
    text: TextSettings
    dit: DiTConfig
    vae: VAEConfig
    turbo: TurboSettings
    full: FullSettings
    weights: WeightFiles

    def __post_init__(self):
        _check(self.dit.in_channels == self.dit.out_channels == self.vae.latent_channels,
               f"dit.in_channels, dit.out_channels: expected vae.latent_channels = {self.vae.latent_channels}, "
               f"got {self.dit.in_channels} and {self.dit.out_channels}")
        _check(self.dit.text_len == self.text.text_len,
               f"dit.text_len: expected text.text_len = {self.text.text_len}, got {self.dit.text_len}")
        step_h, step_w = (self.vae.spatial_stride * p for p in self.dit.patch_size[1:])
        for width, height in self.clip.menu:
            _check(width % step_w == 0 and height % step_h == 0 and width > 0 and height > 0,
                   f"clip.sizes: expected multiples of {step_w}x{step_h}, got {width}x{height}")

    def weights_path(self, role: str) -> Path:
        return self.folder / getattr(self.weights, role)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """[C, T, H, W] of a clip's latent."""
        stride = self.vae.spatial_stride
        return self.vae.latent_channels, latent_frames(num_frames), height // stride, width // stride


_SECTIONS = {f.name: f.type for f in fields(Preset) if f.name not in ("name", "folder")}


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
    _refuse_unknown(path.name, "section", table, _SECTIONS)
    parts = {section: _section(path.name, section, kind, table[section]) for section, kind in _SECTIONS.items()}
    try:
        return Preset(name=path.stem, folder=path.with_suffix(""), **parts)
    except ValueError as error:
        raise PresetError(f"{path.name}: {error}") from error


def _section(file: str, section: str, kind: type, table: object):
    where = f"{file} [{section}]"
    if not isinstance(table, dict):
        raise PresetError(f"{where}: expected a table, got {table!r}")
    hints = {f.name: get_type_hints(kind)[f.name] for f in fields(kind)}
    _refuse_unknown(where, "key", table, hints)
    values = {key: _value(where, key, hint, table[key]) for key, hint in hints.items()}
    try:
        return kind(**values)
    except (ValueError, ArithmeticError) as error:
        raise PresetError(f"{where}: {error}") from error


def _refuse_unknown(where: str, what: str, table: dict, known) -> None:
    names = ", ".join(known)
    if unknown := [key for key in table if key not in known]:
        raise PresetError(f"{where}: unknown {what} {unknown[0]!r}, known {what}s are {names}")
    if missing := [key for key in known if key not in table]:
        raise PresetError(f"{where}: {what} {missing[0]!r} is missing, needed {what}s are {names}")


def _value(where: str, key: str, hint, value):
    """One TOML value as the field's type. An int passes for a float, nothing else is converted."""
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        right = isinstance(value, list) and (inner[-1] is Ellipsis or len(value) == len(inner))
        if right and all(type(item) is inner[0] for item in value):
            return tuple(value)
        length = "" if inner[-1] is Ellipsis else f"{len(inner)} "
        raise PresetError(f"{where}: {key}: expected a list of {length}{inner[0].__name__}, got {value!r}")
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise PresetError(f"{where}: {key}: expected {hint.__name__}, got {value!r}")
    return value
