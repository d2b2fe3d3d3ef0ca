"""umT5-XXL reads the prompts of the Wan family: 4.6 B parameters of encoder, and a table of 256,384 words in host memory.

Source: Chung et al. 2023, arXiv:2304.09151; the encoder itself is transformers'. Prompts are cleaned, cut and padded as Wan 2.1
does it, so that its networks see what they were trained on.
"""
import html
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kernels
from turbo_engine.errors import TurboError, WeightsError
from turbo_engine.models.config import UMT5Config
from turbo_engine.models.linear8 import Linear8
from turbo_engine.models.prompt_cache import PromptCache

END = "</s>"
_TABLE = "shared.weight"
_NARROW = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}      # letters and signs as wide as a Chinese one
_SOUND = re.compile(r"[\t\n\r\x20-\x7e\u4e00-\u9fff]*")             # plain ASCII, Chinese: nothing of it can be broken
_ENTITY = re.compile("&.*;", re.DOTALL)


def clean_prompt(prompt: str) -> str:
    """Broken Unicode mended, HTML entities undone twice, white space collapsed.

    ftfy mends; text that it would only make narrow does without it. Raises: TurboError for other text where it is not installed.
    """
    text = prompt.translate(_NARROW)
    if not _SOUND.fullmatch(text) or _ENTITY.search(text):
        try:
            import ftfy
        except ModuleNotFoundError as error:
            raise TurboError("prompt: expected the package ftfy for letters beyond English and Chinese, found none; pip install ftfy"
                             ) from error
        text = ftfy.fix_text(prompt)
    return " ".join(html.unescape(html.unescape(text)).split())


class UMT5:
    """Token states of prompts, zero beyond the prompt's end; the same interface as MiniLM.

    Args:
        weights: name by transformers and tensor, one at a time, of any float dtype; each goes to its place before the next comes.
        tokenizer: umT5's tokenizer.json.
        device, dtype: where and in what a prompt is read.
        idle: where the encoder's weights wait between prompts; None: on `device`. With "cpu", they are copied over for each new
            prompt and let go after it.
        eight_bit: linear layers in 8 bits, about half the memory of bf16.
        cache: prompts read before; name: of the weights, by content, for its keys.
        make_room: called before a prompt is read that no cache has, so that others can leave the device.
    Raises: WeightsError for a tokenizer that is missing or of another model; RuntimeError for weights of another shape.
    """

    def __init__(self, config: UMT5Config, weights: Iterable[tuple[str, Tensor]], tokenizer: Path, *, text_len: int,
                 device: torch.device | str, dtype: torch.dtype, idle: torch.device | str | None = None, eight_bit: bool = False,
                 cache: PromptCache | None = None, name: str = "", make_room: Callable[[], None] | None = None):
        assert cache is None or name, "a cache needs to know whose states it keeps"
        self.dim, self.text_len = config.dim, text_len
        self.device, self.dtype = torch.device(device), dtype
        self.idle = self.device if idle is None else torch.device(idle)
        self.tokenizer = _open_tokenizer(tokenizer, config)
        self._cache, self._reader = cache, f"{name} {dtype} {'int8' if eight_bit else ''} {text_len}"
        self._make_room = make_room
        self._model = _empty_encoder(config)
        packed = {f"{key}.weight" for key, module in self._model.named_modules() if isinstance(module, nn.Linear)} if eight_bit else set()
        for key in packed:
            linear = key.removesuffix(".weight")
            self._model.set_submodule(linear, Linear8.like(self._model.get_submodule(linear)))
        self._state: dict[str, Tensor] = {}
        for key, tensor in weights:
            if key == _TABLE:
                self._table = tensor.to("cpu", dtype)
            elif key in packed:
                stem = key.removesuffix("weight")
                rows, scale = kernels.quantize_rows(tensor.to(self.device), format="int8", backend="torch")
                self._state[stem + "int8_weight"], self._state[stem + "scale"] = self._placed(rows), self._placed(scale)
            else:
                self._state[key] = self._placed(tensor.to(dtype))
        self._model.load_state_dict(self._state, assign=True)
        self._model.eval().requires_grad_(False)

    def _placed(self, tensor: Tensor) -> Tensor:
        """Where it waits; in host memory that the system does not move, from which a GPU fetches several times faster."""
        tensor = tensor.to(self.idle)
        return tensor.pin_memory() if self.device.type == "cuda" and self.idle.type == "cpu" else tensor

    def num_tokens(self, prompt: str) -> int:
        """Tokens of the whole prompt, the end mark included; those beyond `text_len` are not read."""
        return len(self.tokenizer.encode(clean_prompt(prompt)).ids)

    def encode(self, prompts: list[str], *, remember: bool = True) -> Tensor:
        """Token states [B, text_len, dim] float32 on `device`. `remember` looks in the cache, and keeps new ones there."""
        prompts = [clean_prompt(prompt) for prompt in prompts]
        cache = self._cache if remember else None
        rows = {prompt: cache.get(self._reader, prompt) if cache else None for prompt in prompts}
        if missing := [prompt for prompt, states in rows.items() if states is None]:
            rows.update(zip(missing, self._encode(missing)))
            for prompt in missing if cache else ():
                cache.put(self._reader, prompt, rows[prompt])
        padded = [F.pad(rows[prompt].to(self.device).float(), (0, 0, 0, self.text_len - len(rows[prompt]))) for prompt in prompts]
        return torch.stack(padded)

    def _ids(self, prompt: str) -> Tensor:
        ids = self.tokenizer.encode(prompt).ids
        return torch.tensor(ids if len(ids) <= self.text_len else ids[:self.text_len - 1] + ids[-1:])

    @torch.no_grad()
    def _encode(self, prompts: list[str]) -> list[Tensor]:
        """States of each prompt's own tokens, [n, dim]: padding is masked in the encoder and dropped after it, so it is left out."""
        if self._make_room is not None:
            self._make_room()
        ids = [self._ids(prompt) for prompt in prompts]
        words = nn.utils.rnn.pad_sequence([self._table[row] for row in ids], batch_first=True).to(self.device, self.dtype)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).to(self.device)
        with self._in_place() as model:
            states = model(inputs_embeds=words, attention_mask=mask).last_hidden_state
        return [row[:len(own)].clone() for row, own in zip(states, ids)]

    @contextmanager
    def _in_place(self) -> Iterator[nn.Module]:
        """The encoder on `device`; its copy there is dropped after use where the weights wait elsewhere."""
        if self.idle == self.device:
            yield self._model
            return
        try:
            here = {key: tensor.to(self.device, non_blocking=True) for key, tensor in self._state.items()}
            self._model.load_state_dict(here, assign=True)
            del here
            yield self._model
        finally:
            self._model.load_state_dict(self._state, assign=True)


def _empty_encoder(config: UMT5Config) -> nn.Module:
    """transformers' encoder without memory of its own, and without the table of words."""
    from transformers import UMT5Config as Settings
    from transformers import UMT5EncoderModel

    settings = Settings(vocab_size=config.vocab_size, d_model=config.dim, d_ff=config.ffn_dim, num_layers=config.num_layers,
                        num_heads=config.num_heads, d_kv=config.head_dim, relative_attention_num_buckets=config.num_buckets,
                        relative_attention_max_distance=config.max_distance, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    with torch.device("meta"):
        model = UMT5EncoderModel(settings)
    model.set_input_embeddings(None)
    return model


def _open_tokenizer(path: Path, config: UMT5Config):
    from tokenizers import Tokenizer

    if not path.is_file():
        raise WeightsError(f"text encoder: expected umT5's {path.name} in {path.parent}, found none; it comes with the text encoder")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:                                 # what the library raises has no narrower type
        raise WeightsError(f"{path}: expected umT5's tokenizer, found an unreadable file: {error}; restore it") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    end, words = tokenizer.token_to_id(END), tokenizer.get_vocab_size()
    if end is None or tokenizer.encode("a").ids[-1:] != [end]:
        raise WeightsError(f"{path}: expected a tokenizer that ends a prompt with {END}, found another model's; restore umT5's")
    if words > config.vocab_size:
        raise WeightsError(f"{path}: expected {config.vocab_size:,} tokens at most, found {words:,}; restore umT5's")
    return tokenizer
