"""Build the art pack: one picture per subject of world.toml, in one WebP atlas with a JSON index beside it.

    mkdir npm && cd npm
    npm pack @lobehub/fluent-emoji-3d@1.1.0 emojibase-data@17.0.0 @iconify-json/fluent-emoji@1.2.7
    for name in lobehub-fluent-emoji-3d emojibase-data iconify-json-fluent-emoji; do
        mkdir -p $name && tar xzf $name-*.tgz -C $name --strip-components 1; done
    python -m turbo_engine.distill.build_art --npm .

The pictures are Microsoft's Fluent 3D emoji (MIT, packaged by LobeHub), found by their emojibase label. The Iconify package is
only asked whether it knows the name too: its list is Microsoft's own release, so a picture of unknown origin is refused.
Atlas: square RGBA cells, art cropped tight, centred, feet on the bottom line, colour bled under the transparent edge.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import cv2
import numpy as np

from .world import Subject, load_world

ATLAS_FILE = Path(__file__).with_name("art.webp")
INDEX_FILE = Path(__file__).with_name("art.json")
CELL = 160       # pixels; a subject is 102-123 px high in a 256 px frame, 165 when the camera has zoomed in
COLUMNS = 14
QUALITY = 100    # WebP, lossy at its best: 1.0 MiB in all; lossless is 2.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--npm", type=Path, required=True, help="folder with the three unpacked packages")
    arguments = parser.parse_args()
    subjects = load_world().subjects
    codes = find_codes(subjects, arguments.npm)
    cells = [cell_of(cv2.imread(str(picture_of(arguments.npm, codes[s.art])), cv2.IMREAD_UNCHANGED)) for s in subjects]
    write_atlas(cells, [subject.art for subject in subjects])
    print(f"{len(cells)} pictures, {ATLAS_FILE.stat().st_size / 2**20:.2f} MiB: {ATLAS_FILE.name}")


def find_codes(subjects: tuple[Subject, ...], npm: Path) -> dict[str, str]:
    """Code point of each subject's art. Raises: SystemExit naming art that emojibase or Iconify does not know."""
    entries = json.loads((npm / "emojibase-data/en/data.json").read_text())
    codes = {entry["label"]: entry["hexcode"].lower() for entry in entries}
    released = set(json.loads((npm / "iconify-json-fluent-emoji/icons.json").read_text())["icons"])
    missing = [s.art for s in subjects if s.art not in codes]
    foreign = [s.art for s in subjects if s.art in codes and _iconify_name(s.art) not in released]
    if missing or foreign:
        raise SystemExit(f"unknown to emojibase: {missing}; not in Microsoft's release by Iconify's list: {foreign}")
    return {s.art: codes[s.art] for s in subjects}


def _iconify_name(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label.lower()).strip("-")


def picture_of(npm: Path, code: str) -> Path:
    for name in (code, f"{code}-fe0f"):
        path = npm / "lobehub-fluent-emoji-3d/assets" / f"{name}.webp"
        if path.exists():
            return path
    raise SystemExit(f"the art package has no picture of {code}")


def cell_of(art: np.ndarray) -> np.ndarray:
    """Fit art [h, w, 4] uint8 BGRA into a [CELL, CELL, 4] cell, feet 1 px above the bottom."""
    alpha = art[..., 3]
    rows, columns = np.flatnonzero((alpha > 8).any(1)), np.flatnonzero((alpha > 8).any(0))
    art = art[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    art[..., :3] *= art[..., 3:] / 255                       # premultiplied, so that resizing invents no fringe
    scale = (CELL - 4) / max(art.shape[:2])
    size = (round(art.shape[1] * scale), round(art.shape[0] * scale))
    art = cv2.resize(art, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC).clip(0, 255)
    cell = np.zeros((CELL, CELL, 4), np.float32)
    left, bottom = (CELL - size[0]) // 2, CELL - 1
    cell[bottom - size[1] : bottom, left : left + size[0]] = art
    return _bleed(cell)


def _bleed(cell: np.ndarray) -> np.ndarray:
    """Un-premultiply, and continue the colour past the edge: lossy WebP would mix in the black behind it."""
    colour, weight = cell[..., :3].copy(), cell[..., 3:] / 255
    total, reach = colour.copy(), weight.copy()
    for radius in (2, 6, 16):
        blurred = cv2.GaussianBlur(np.concatenate([colour, weight], -1), (0, 0), radius)
        total += blurred[..., :3] * 1e-2 / radius
        reach += blurred[..., 3:] * 1e-2 / radius
    straight = total / np.maximum(reach, 1e-6)
    return np.concatenate([straight, cell[..., 3:]], -1).clip(0, 255).round().astype(np.uint8)


def write_atlas(cells: list[np.ndarray], names: list[str]) -> None:
    """Write the cells row by row, and art.json: {"cell": px, "columns": n, "names": [in atlas order]}."""
    rows = -(-len(cells) // COLUMNS)
    atlas = np.zeros((rows * CELL, COLUMNS * CELL, 4), np.uint8)
    for i, cell in enumerate(cells):
        y, x = divmod(i, COLUMNS)
        atlas[y * CELL : (y + 1) * CELL, x * CELL : (x + 1) * CELL] = cell
    _, encoded = cv2.imencode(".webp", atlas, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    ATLAS_FILE.write_bytes(encoded.tobytes())
    INDEX_FILE.write_text(json.dumps({"cell": CELL, "columns": COLUMNS, "names": names}, ensure_ascii=False, indent=0))


if __name__ == "__main__":
    main()
