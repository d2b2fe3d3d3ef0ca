"""The recipe inside exported files: where it stands in each format, put in and read back out.

MP4 and WebM keep it in the comment tag (written by `media.encode_video`), GIF in a comment extension, PNG in an iTXt
chunk called "rushes", ZIP as recipe.json, its first entry. Foreign files are met here: read little, trust nothing.
"""
import io
import json
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

from turbo_engine.errors import OutputError
from turbo_engine.recipe import RECIPE_VERSION

MAX_RECIPE_BYTES = 64 * 1024
ZIP_NAME = "recipe.json"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_KEY = b"rushes\0"
_PNG_PLAIN = b"\0\0\0\0"     # not compressed, method 0, no language, no translated keyword
_PNG_HEAD = 33               # signature and IHDR


def as_text(recipe: dict) -> bytes:
    return json.dumps(recipe, ensure_ascii=False).encode()


def put_in_png(data: bytes, text: bytes) -> bytes:
    """A PNG with the recipe's text as its second chunk."""
    body = b"iTXt" + _PNG_KEY + _PNG_PLAIN + text
    return data[:_PNG_HEAD] + struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + data[_PNG_HEAD:]


def put_in_gif(data: bytes, text: bytes) -> bytes:
    """A GIF with the recipe's text as a comment before its first picture."""
    blocks = b"".join(bytes([len(part)]) + part for part in (text[i:i + 255] for i in range(0, len(text), 255)))
    place = _after_global_palette(data)
    if data[place:place + 2] == b"!\xff":
        place += 19                                                # NETSCAPE2.0 stays first, where old players look
    return data[:place] + b"!\xfe" + blocks + b"\0" + data[place:]


def read_recipe(source: Path | str | bytes, name: str | None = None) -> dict:
    """The recipe inside any file `export` makes; what it is follows from its first bytes, never from its name.

    Args: source: a path, or the file's bytes. name: what messages call it. Reads little, whatever the file claims.
    Raises: OutputError, one line, for files that are damaged, foreign, without a recipe, or made by a newer version.
    """
    name = " ".join(str(name or ("the file" if isinstance(source, bytes) else source)).split())[:200]
    nothing = f"{name}: expected a file exported by this app, found no recipe in it; choose another file"
    try:
        if not isinstance(source, bytes) and not Path(source).is_file():     # a pipe would block
            raise OutputError(f"{name}: expected a file, found none there; choose another")
        with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as file:
            text = _recipe_text(file)
    except (OSError, ValueError, EOFError, IndexError, struct.error) as error:   # the last two: the file ends too soon
        raise OutputError(nothing) from error
    try:
        if text is None or len(text) > MAX_RECIPE_BYTES:
            raise ValueError("no recipe, or one too long")
        recipe = json.loads(text, parse_constant=_refuse_constant)
        version = recipe.get("schema") if isinstance(recipe, dict) else None
        if type(version) is not int or version < 1:
            raise ValueError("JSON, but not a recipe")
    except (ValueError, RecursionError) as error:
        raise OutputError(nothing) from error
    if version > RECIPE_VERSION:
        raise OutputError(f"{name}: expected a recipe of version {RECIPE_VERSION} or older, found {version}, made by a newer "
                          "version of this app; update the app")
    return recipe


def _recipe_text(file: BinaryIO) -> bytes | None:
    """What a recipe would stand in, or None. Raises: OSError, ValueError, IndexError, struct.error on damaged files."""
    magic = file.read(12)
    file.seek(0)
    if magic[4:8] == b"ftyp":
        return _comment_tag(file, "mp4")
    if magic[:4] == b"\x1a\x45\xdf\xa3":
        return _comment_tag(file, "matroska")
    if magic[:6] in (b"GIF89a", b"GIF87a"):
        return _gif_comment(file)
    if magic[:8] == _PNG_MAGIC:
        return _png_text(file)
    if magic[:4] == b"PK\x03\x04":
        return _zip_recipe(file)
    return None


def _comment_tag(file: BinaryIO, demuxer: str) -> bytes | None:
    import av

    little = {"probesize": "65536", "analyzeduration": "0", "protocol_whitelist": "none"}      # tags only: decode as good as nothing
    try:
        with av.open(file, format=demuxer, options=little) as container:
            tags = {key.lower(): value for key, value in container.metadata.items()}
    except av.error.FFmpegError as error:                          # of many kinds, not all of them ValueErrors
        raise ValueError("damaged container") from error
    return tags["comment"].encode() if "comment" in tags else None


def _refuse_constant(text: str):
    raise ValueError(f"{text} is not JSON")


def _png_text(file: BinaryIO) -> bytes | None:
    file.seek(len(_PNG_MAGIC))
    for _ in range(64):                                            # ours is the second chunk
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind in (b"IDAT", b"IEND"):
            break
        if kind != b"iTXt" or length > MAX_RECIPE_BYTES + 64:
            file.seek(length + 4, io.SEEK_CUR)
            continue
        body = file.read(length)
        if struct.unpack(">I", file.read(4))[0] != zlib.crc32(kind + body):
            raise ValueError("damaged chunk")
        if body.startswith(_PNG_KEY + _PNG_PLAIN):
            return body[len(_PNG_KEY + _PNG_PLAIN):]
    return None


def _zip_recipe(file: BinaryIO) -> bytes | None:
    """Ours is the first entry and stored, so nothing is unpacked and no directory read: bombs have nothing to go off in."""
    flags, method, crc, packed, size, name_size, extra_size = struct.unpack("<4x2xHH4xIIIHH", file.read(30))
    if file.read(name_size) != ZIP_NAME.encode() or method != 0 or flags & ~0x800 or packed != size or size > MAX_RECIPE_BYTES:
        return None
    file.seek(extra_size, io.SEEK_CUR)
    body = file.read(size)
    if zlib.crc32(body) != crc:
        raise ValueError("damaged entry")
    return body


def _after_global_palette(head: bytes) -> int:
    return 13 + (3 << (head[10] & 7) + 1 if head[10] & 0x80 else 0)


def _gif_comment(file: BinaryIO) -> bytes | None:
    file.seek(_after_global_palette(file.read(13)))
    for _ in range(16):                                            # extensions before the first picture; ours is the second
        lead = file.read(2)
        if lead[:1] != b"!":
            break
        body = b""
        while size := file.read(1)[0]:
            body += file.read(size)
            if len(body) > 2 * MAX_RECIPE_BYTES:
                return None
        if lead == b"!\xfe":
            return body
    return None
