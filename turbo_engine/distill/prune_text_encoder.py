"""Write a copy of the text encoder that knows only the words of pocket's captions, for machines where training runs.

    python -m turbo_engine.distill.prune_text_encoder --out .carry/minilm

Half of MiniLM's 90 MB is its vocabulary. The copy keeps the rows that captions use, in float16 (about 22 MiB); every other
word reads as [UNK]. Rows kept are exact to float16, so that a caption's token states equal the full encoder's.
"""
import argparse
import json
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from turbo_engine.distill.captions import caption
from turbo_engine.distill.world import load_world, sample_specs
from turbo_engine.models.text_encoder import installed_folder

_EMBEDDING = "embeddings.word_embeddings.weight"
_ALWAYS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


def caption_vocabulary(tokenizer: Tokenizer, draws: int, extra_text: str) -> list[int]:
    """Sorted token ids of `draws` random captions, of the world file's own words and of the special tokens."""
    world, rng = load_world(), random.Random(0)
    ids = {tokenizer.token_to_id(token) for token in _ALWAYS} | set(tokenizer.encode(extra_text).ids)
    for spec in sample_specs(world, draws, rng):
        ids |= set(tokenizer.encode(caption(world, spec, rng)).ids)
    return sorted(ids)


def prune(source: Path, out: Path, draws: int = 20_000) -> int:
    """Write the pruned copy of the folder `source` to `out`. Returns the number of tokens kept."""
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    words = (Path(__file__).resolve().parents[2] / "presets" / "pocket" / "world.toml").read_text()
    # Common words a free sentence may add, so that the evaluation prompts read as they will in the app.
    words += " some one two this that there here going moving quickly slowly under over into tall tiny huge red blue green yellow"
    words += " purple orange black white brown pink grey night day morning evening sunset water sea sky trees street field puppy"
    kept = caption_vocabulary(tokenizer, draws, words)
    state = {k: v for k, v in load_file(source / "model.safetensors").items() if "position_ids" not in k and not k.startswith("pooler.")}
    state[_EMBEDDING] = state[_EMBEDDING][torch.tensor(kept)]
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.half().contiguous() for k, v in state.items()}, out / "model.safetensors")
    (out / "kept_ids.json").write_text(json.dumps(kept))
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, out / name)
    return len(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(".carry/minilm"))
    args = parser.parse_args()
    count = prune(installed_folder(), args.out)
    size = sum(p.stat().st_size for p in args.out.iterdir()) / 2**20
    print(f"{args.out}: {count} tokens kept, {size:.1f} MiB")


if __name__ == "__main__":
    main()
