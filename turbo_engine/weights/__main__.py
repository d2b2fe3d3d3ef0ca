"""python -m turbo_engine.weights inspect | convert | fetch: progress on stderr, one JSON line last on stdout."""
import argparse
import json
import sys
from pathlib import Path

from turbo_engine.errors import TurboError, WeightsError
from turbo_engine.weights.architecture import MODELS
from turbo_engine.weights.checkpoint import open_checkpoint
from turbo_engine.weights.convert import convert
from turbo_engine.weights.fetch import HubFile, fetch
from turbo_engine.weights.folder import identify, scan
from turbo_engine.weights.identify import Identity
from turbo_engine.weights.pocket import SCALE_SUFFIX, load_weights, manifest_path, read_manifest
from turbo_engine.weights.shards import NUMBERED
from turbo_engine.weights.terminal import announce, bar


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise WeightsError(f"{message}; see python -m turbo_engine.weights --help")


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m turbo_engine.weights", description="What a checkpoint is, and pickles made safe.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    inspect = commands.add_parser("inspect", help="say what files are")
    inspect.add_argument("path", type=Path, metavar="FILE_OR_FOLDER")
    inspect.add_argument("--verify", action="store_true", help="read every byte and hold it against the digest that convert wrote")
    making = commands.add_parser("convert", help="write a .pth's tensors as safetensors beside it")
    making.add_argument("path", type=Path, metavar="FILE")
    making.add_argument("--out", type=Path, metavar="FILE.safetensors")
    fetching = commands.add_parser("fetch", help="download files of a hub repository, resume them, convert their pickles")
    fetching.add_argument("repo", metavar="OWNER/NAME")
    fetching.add_argument("files", nargs="+", metavar="FILE")
    fetching.add_argument("--to", type=Path, default=Path("weights"), metavar="FOLDER")
    return parser.parse_args(argv)


def run(argv: list[str]) -> dict:
    """Do what the arguments ask. Returns: what the JSON line says. Raises: TurboError."""
    args = _arguments(argv)
    if args.command == "convert":
        made = convert(args.path, args.out, bar)
        return {"written": str(made), **_describe(identify(made))}
    if args.command == "fetch":
        made = fetch([HubFile(args.repo, name) for name in args.files], args.to, announce=announce, progress=bar)
        return {"fetched": [str(path) for path in made]}
    own: list[dict] = []
    refused: list[dict] = []

    def note(path: Path, why: str) -> None:
        if manifest_path(path).is_file():
            own.append(_describe_own(path))
        else:
            refused.append({"path": str(path), "error": why})
            print(why)
    described = [_describe(identity, args.verify) for identity in _found(args.path, note)]
    return {"found": described, "own": own, "refused": refused}


def _found(path: Path, note) -> list[Identity]:
    """A folder that is one checkpoint, or one that holds several."""
    sharded = path.is_dir() and any(NUMBERED.match(file.name) for file in path.iterdir())
    if path.is_dir() and not sharded:
        return scan(path, note)
    try:
        return [identify(path)]
    except WeightsError:
        if not manifest_path(path).is_file():
            raise
        note(path, "")
        return []


def _describe_own(path: Path) -> dict:
    """The app's own weights, by their manifest; every byte is hashed as always."""
    manifest = read_manifest(path)
    shapes = {key: tuple(entry["shape"]) for key, entry in manifest["tensors"].items()
              if not key.endswith(SCALE_SUFFIX)}
    load_weights(path, manifest["role"], shapes)
    print(f"{path}: this app's {manifest['role']}, {len(manifest['tensors'])} tensors, {manifest['bytes']:,} bytes; complete, "
          "every byte as written")
    return {"path": str(path), **{key: manifest[key] for key in ("role", "bytes", "sha256")}}


def _describe(identity: Identity, verify: bool = False) -> dict:
    """One line for people, and the same for programs, with the exact manifest checked where the size is known."""
    report = {**identity.to_json(), "complete": None, "verified": None}
    problem = ""
    if identity.model:
        numbers = MODELS[identity.model]
        try:
            with open_checkpoint(identity.path, numbers) as checkpoint:
                report["complete"] = True
                if verify:
                    report["verified"] = checkpoint.verify(progress=bar)
        except WeightsError as error:
            problem = str(error)
            report |= {"error": problem} | ({"complete": False} if report["complete"] is None else {"verified": False})
    state = problem or ("complete" if report["complete"] else "of a size we do not know")
    state += {True: ", every byte as written", None: "", False: "" if problem else ", no digest known"}[report["verified"]]
    print(f"{identity.path}: {identity}, {identity.tensors} tensors, {identity.elements:,} elements, {identity.bytes:,} bytes; {state}")
    return report


def main(argv: list[str] | None = None) -> int:
    try:
        print(json.dumps(run(sys.argv[1:] if argv is None else argv)))
        return 0
    except TurboError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
