"""Which files in a user's folder are the parts of a preset, what is missing and how to get it. Told by content; no torch here.

    take_stock(preset, folder)      -> Stock: every part, found or not; .lines() for people, .refusal for one line, .files for the engine
    why_not_ready(preset, folder)   -> "" where the preset can run, else the reason in plain words
    weights_folder(preset, named)   -> where a preset's weights are looked for
    get_missing(stock, ...)         -> converts the pickles that are there, downloads the rest by name
    prepare(preset, named, ...)     -> all of this for a command: the list, the download if asked for, the refusal
"""
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from turbo_engine.errors import WeightsError
from turbo_engine.models.config import HIGH, LOW
from turbo_engine.presets import Preset
from turbo_engine.weights import HubFile, Identity, TinyNumbers, convert, fetch, scan
from turbo_engine.weights.architecture import Numbers, elements
from turbo_engine.weights.container import CONVERT, Progress
from turbo_engine.weights.fetch import Remote, with_shards
from turbo_engine.weights.folder import DEPTH
from turbo_engine.weights.identify import size_of, size_text
from turbo_engine.weights.shards import INDEX_SUFFIX, PICKLE_SUFFIXES
from turbo_engine.weights.terminal import announce, bar

TOKENIZER = "tokenizer.json"
_OTHERS_TOLD = 3             # of what is no part, in a refusal; the list has all


@dataclass(frozen=True)
class Part:
    """One file, or folder of shards, that a preset is made of.

    needed: nothing runs without it; else `without` says what is lost. source: where it is published, "OWNER/REPO/PATH". bytes:
    about, as published. path: where it was found, None if it was not; identity: what was found there, None for the tokenizer.
    pickle: a .pth of its published name, which is no use before it is converted.
    """

    name: str
    source: str
    bytes: int
    needed: bool
    without: str = ""
    path: Path | None = None
    identity: Identity | None = None
    pickle: Path | None = None

    @property
    def is_full(self) -> bool:
        """Of the undistilled model."""
        return self.name.startswith("full ")

    @property
    def line(self) -> str:
        if self.identity is not None:
            return f"{self.path}: {self.identity}, {_gb(self.identity.bytes)}"
        if self.path is not None:
            return str(self.path)
        lost = "" if self.needed else f" ({self.without})"
        if self.pickle is not None:
            return f"a pickle{lost}, convert it once with: {CONVERT} {self.pickle}"
        return f"missing{lost}" + (f", on the hub as {self.source}, about {_gb(self.bytes)}" if self.source else ", and not published")


@dataclass(frozen=True)
class WanFiles:
    """Checkpoints of a preset's parts. networks: by name, "turbo" and "full", with " high-noise" and " low-noise" where there are two."""

    networks: dict[str, Identity]
    vae: Identity
    text_encoder: Identity
    tokenizer: Path
    tiny_vae: Identity | None


@dataclass(frozen=True)
class Stock:
    """What a folder holds of a preset. others: of each file that is no part of it, what it is or why it is refused."""

    preset: Preset
    folder: Path
    parts: tuple[Part, ...]
    others: tuple[str, ...] = ()

    @property
    def missing(self) -> list[Part]:
        """What nothing runs without."""
        return [part for part in self.parts if part.needed and part.path is None]

    @property
    def refusal(self) -> str:
        """One line on what is missing and the way out; "" where all that is needed is there."""
        if not self.missing:
            return ""
        names, pickle = ", ".join(part.name for part in self.missing), next((part.pickle for part in self.missing if part.pickle), None)
        here = [str(part.identity or part.path.name) for part in self.parts if part.path is not None]
        more = [f"and {len(self.others) - _OTHERS_TOLD} more"] if len(self.others) > _OTHERS_TOLD else []
        seen = "; ".join([*here, *self.others[:_OTHERS_TOLD], *more]) or "no checkpoint"
        way = f"convert it once with: {CONVERT} {pickle}, or add --download, which does it" if pickle else \
            f"put them there, name another folder with --weights DIR, or add --download ({_gb(sum(part.bytes for part in self.missing))})"
        seen = f"the pickle {pickle.name}; {seen}" if pickle else seen
        return f"{self.folder}: expected the {names} of {self.preset.name}, found {seen}; {way}"

    def lines(self) -> list[str]:
        """The list for people: part, file, form, size."""
        width = max(len(part.name) for part in self.parts)
        return [f"{self.preset.name}, from {self.folder}", *(f"  {part.name:{width}}  {part.line}" for part in self.parts),
                *(f"  {'(not used)':{width}}  {line}" for line in self.others)]

    @property
    def files(self) -> WanFiles:
        """Raises: WeightsError, `refusal`. Of two full experts one alone is left out."""
        if self.refusal:
            raise WeightsError(self.refusal)
        found = {part.name: part for part in self.parts}
        networks = {name: found[f"{name} network"].identity for mode in ("turbo", "full") for name in network_names(self.preset, mode)}
        if None in networks.values():
            networks = {name: networks[name] for name in network_names(self.preset, "turbo")}
        tiny = found.get("preview decoder")
        return WanFiles(networks, found["video autoencoder"].identity, found["text encoder"].identity, found[TOKENIZER].path,
                        tiny and tiny.identity)


def network_names(preset: Preset, mode: str) -> tuple[str, ...]:
    return (mode,) if preset.experts is None else (f"{mode} {HIGH}", f"{mode} {LOW}")


def tiny_numbers(preset: Preset) -> TinyNumbers:
    return TinyNumbers(widths=preset.tiny_vae.widths, latent_channels=preset.tiny_vae.latent_channels)


def weights_folder(preset: Preset, named: Path | str | None = None) -> Path:
    """The named folder, else the preset's own beside its .toml if there is one, else the shared one of this user."""
    if named is not None:
        return Path(named)
    if preset.weights is not None or preset.folder.is_dir():
        return preset.folder
    from platformdirs import user_data_path

    return user_data_path("rushes", appauthor=False) / "weights"


def why_not_ready(preset: Preset, named: Path | str | None = None) -> str:
    """"" where a preset's weights are there, else what is missing, in words for a page. Reads headers alone."""
    folder = weights_folder(preset, named)
    if preset.weights is not None:
        absent = [path for role in ("teacher", "student", "decoder") if not (path := preset.weights_path(role)).is_file()]
        return f"Its file {absent[0].name} is not in {folder}; restore it." if absent else ""
    try:
        missing = take_stock(preset, folder).missing
    except WeightsError as error:
        return str(error)
    if missing:
        names = ", ".join(f"{part.name} ({_gb(part.bytes)})" for part in missing)
        return f"Not in {folder}: {names}. Start the app with --preset {preset.name} --download, or name the folder with --weights."
    return ""


def take_stock(preset: Preset, folder: Path) -> Stock:
    """Look at every checkpoint of a folder and of the folders in it, as `scan` does. A folder that is not there holds nothing."""
    refused: list[tuple[Path, str]] = []
    found = scan(folder, lambda path, why: refused.append((path, why))) if folder.is_dir() else []
    found.sort(key=lambda identity: identity.quantised)                     # of two files for one part the more exact one
    used: set[Path] = set()

    def part(name: str, source: str, numbers: Numbers, bytes_each: int, *, kind: str = "", expert: str = "", needed: bool = True,
             without: str = "") -> Part:
        size = size_text(size_of(numbers))
        asked = Part(name, source, bytes_each * elements(numbers, **({"sla": True} if kind == "turbo" else {})), needed, without)
        for identity in found:
            if identity.size == size and (not kind or identity.kind == kind) and identity.expert == expert:
                used.add(identity.path)
                return replace(asked, path=identity.path, identity=identity)
        return replace(asked, pickle=next((path for path, _ in refused if path.name == source.rpartition("/")[2]
                                           and path.suffix in PICKLE_SUFFIXES), None))

    parts = []
    for mode in ("turbo", "full"):
        sources = getattr(preset.files, mode)
        for name, source in zip(network_names(preset, mode), sources):
            parts.append(part(f"{name} network", source, preset.dit, 2 if mode == "turbo" else 4, kind=mode,
                              expert=name.partition(" ")[2], needed=mode == "turbo", without="only turbo clips without it; --download-full gets it"))
    parts += [part("video autoencoder", preset.files.vae, preset.vae, 4),
              part("text encoder", preset.files.text_encoder, preset.umt5, 2)]
    parts.append(Part(TOKENIZER, preset.files.tokenizer, 16_837_417, True, path=_tokenizer(folder, parts[-1].path)))
    if preset.tiny_vae is not None and preset.files.tiny_vae:
        parts.append(part("preview decoder", preset.files.tiny_vae, tiny_numbers(preset), 2, needed=False,
                          without="previews take the full decoder without it"))
    pickles = {part.pickle for part in parts}
    others = [f"{identity.path}: {identity}{_unmarked(preset, identity)}" for identity in found if identity.path not in used]
    others += [why for path, why in refused if path not in pickles]
    return Stock(preset, folder, tuple(parts), tuple(others))


def _tokenizer(folder: Path, encoder: Path | None) -> Path | None:
    """Of all files of that name, which many models have, the one whose folders say umT5, else the one nearest to the text encoder."""
    def rank(path: Path) -> tuple:
        shared = [a == b for a, b in zip(path.parts, encoder.parts if encoder else ())]
        return "umt5" not in str(path.relative_to(folder)).lower(), -(shared.index(False) if False in shared else len(shared)), len(path.parts), path

    return min((path for depth in range(DEPTH + 1) for path in folder.glob("*/" * depth + TOKENIZER)), key=rank, default=None)


def get_missing(stock: Stock, *, full: bool, announce: Callable[[list[Remote]], None] | None = None,
                progress: Progress | None = None) -> Stock:
    """Convert the pickles that are there, download every part that is not. Returns: the stock after it.

    full: the full networks as well, which are the largest. announce, progress: as `fetch`. Each repository gets a folder of its
    name. Raises: WeightsError; what came stays, to be resumed.
    """
    wanted: list[HubFile] = []
    for part in stock.parts:
        if not full and part.is_full:
            continue
        if part.path is None and part.pickle is not None:
            convert(part.pickle, progress=progress)
        elif part.path is None and part.source:
            owner, repository, path = part.source.split("/", 2)
            file = HubFile(f"{owner}/{repository}", path, stock.preset.files.sha256.get(part.source, ""), under=repository)
            wanted += with_shards(file, stock.folder) if path.endswith(INDEX_SUFFIX) else [file]
    if wanted:
        fetch(wanted, stock.folder, announce=announce, progress=progress)
    return take_stock(stock.preset, stock.folder)


def prepare(preset: Preset, named: Path | str | None, *, download: bool = False, full: bool = False, show: Callable[[str], None]) -> Path:
    """Before anything is loaded: list what is there and what is missing, get it if asked to. Progress goes to stderr.

    named: as `weights_folder`. download: what turbo clips need; full: the full networks as well. show: told each line of the list.
    Returns: the folder. Raises: WeightsError while something needed is missing.
    """
    folder = weights_folder(preset, named)
    if preset.weights is not None:                             # its own come with the app, and are checked when they are read
        return folder
    stock = take_stock(preset, folder)
    if (download or full) and any(part.path is None and (full or not part.is_full) for part in stock.parts):
        show(f"getting what is missing of {preset.name} into {folder}")
        stock = get_missing(stock, full=full, announce=announce, progress=bar)
    for line in stock.lines():
        show(line)
    if stock.refusal:
        raise WeightsError(stock.refusal)
    return folder


def _unmarked(preset: Preset, identity: Identity) -> str:
    """What an expert's file lacks to be used, or has too much: nothing in its shapes tells it from the others."""
    if identity.role != "dit" or identity.size != size_text(size_of(preset.dit)) or (preset.experts is None) != bool(identity.expert):
        return ""
    if identity.expert:
        return f"; by its name one of two experts, and {preset.name} has no experts: rename it if it is none"
    return "; which expert it is, neither its name nor its metadata tell: put 'high' or 'low' into its name"


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 5e6 else f"{count / 1e6:.2f} MB"
