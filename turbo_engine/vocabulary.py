"""What a prompt says that the model was never taught, and the nearest words it was. numpy only; quick enough for every edit."""
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from turbo_engine.distill.captions import parse_caption
from turbo_engine.distill.world import World

Embed = Callable[[list[str]], np.ndarray]
"""Texts -> one vector each, [N, D] float32; meaning decides the angle."""

_MIN_TYPO = 4                # letters; in shorter words one changed letter makes another word
_MIN_COSINE = 0.5            # measured with all-MiniLM-L6-v2 token means: below, neighbours are noise (unicorn-horse 0.59)
_MAX_SUGGESTIONS = 3


@dataclass(frozen=True)
class PromptReport:
    """What the model cannot read in a prompt. suggestions: (unknown word, known ones nearest to it) where any are near."""

    unknown_words: tuple[str, ...]
    suggestions: tuple[tuple[str, tuple[str, ...]], ...]
    truncated: bool
    notes: tuple[str, ...]
    """The same in plain sentences, for a person."""


class Vocabulary:
    """The taught words of one model."""

    def __init__(self, world: World | None, *, text_len: int, count_tokens: Callable[[str], int], embed: Embed | None = None):
        """world: None where the model knows no bounds. embed: None finds neighbours by spelling only."""
        self.world, self.text_len, self.count_tokens, self.embed = world, text_len, count_tokens, embed
        self._remembered: dict[str, tuple[str, ...]] = {}
        if world is None:
            return
        self._owner = {phrase.lower(): s.name for s in world.subjects for phrase in (s.name, *s.also)}
        self._words = sorted(_words_of(world))
        phrases = [(p, s.name) for s in world.subjects for p in (s.name, *s.also) if p == s.name or " " not in p]
        self._names = [name for _, name in phrases]
        self._vectors = None if embed is None else _unit(embed([phrase for phrase, _ in phrases]))    # [P, D]

    def check(self, prompt: str) -> PromptReport:
        """Unknown words in order of appearance. Any text is fine here, an empty one too."""
        tokens = self.count_tokens(prompt)
        truncated = tokens > self.text_len
        unknown = self._unknown(prompt) if self.world else ()
        near = tuple((word, found) for word in unknown if (found := self._nearest(word)))
        notes = [f'Not taught: "{word}". Nearest it knows: {", ".join(found)}.' for word, found in near]
        if rest := [f'"{word}"' for word in unknown if word not in dict(near)]:
            notes.append(f"Not taught, may be ignored: {', '.join(rest)}.")
        if truncated:
            notes.append(f"Too long: the model reads {self.text_len} of this prompt's {tokens} tokens, the end is left out.")
        return PromptReport(unknown, near, truncated, tuple(notes))

    def _unknown(self, prompt: str) -> tuple[str, ...]:
        folded = "".join(c for c in unicodedata.normalize("NFKD", prompt) if not unicodedata.combining(c))
        words = re.findall(r"[^\W_]+(?:['-][^\W_]+)*|[^\s\w]", folded.lower())
        symbols = [w for w in words if not w.isascii() and (w.isalnum() or unicodedata.category(w[0]) == "So")]
        outside = set(parse_caption(self.world, folded)["unknown"])
        outside = {w for w in outside if any(c.isalpha() for c in w)}
        return tuple(dict.fromkeys(w for w in words if w in outside or w in symbols))

    def _nearest(self, word: str) -> tuple[str, ...]:
        if word not in self._remembered:
            if len(self._remembered) > 10_000:
                self._remembered.clear()
            self._remembered[word] = self._search(word)
        return self._remembered[word]

    def _search(self, word: str) -> tuple[str, ...]:
        if not word.isascii():
            drawn = unicodedata.name(word[0], "").lower().removesuffix(" face")
            return (self._owner[drawn],) if drawn in self._owner else ()
        real = self.embed is not None and self.count_tokens(word) == 3     # one piece between the marks: no typing error
        if not real and len(word) >= _MIN_TYPO and (typos := [w for w in self._words if one_edit_apart(word, w)]):
            typos.sort(key=lambda known: (known not in self._owner, known))
            return tuple(typos[:_MAX_SUGGESTIONS])
        if self._vectors is None or (word.endswith("ing") and len(word) > 5):    # a deed is no subject
            return ()
        cosine = self._vectors @ _unit(self.embed([word]))[0]                                           # [P]
        best = [self._names[i] for i in np.argsort(-cosine) if cosine[i] >= _MIN_COSINE]
        return tuple(dict.fromkeys(best))[:_MAX_SUGGESTIONS]


def one_edit_apart(a: str, b: str) -> bool:
    """Whether one letter inserted, dropped, changed or swapped with its neighbour turns a into b; False if equal."""
    if a == b or abs(len(a) - len(b)) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    a, b = a[start:], b[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _words_of(world: World) -> set[str]:
    """Every single word of the taught phrases."""
    phrases = [p for s in world.subjects for p in (s.name, *s.also)] + [v for verbs in world.verbs.values() for v in verbs]
    phrases += [p for kind in (world.scenes, world.motions, world.cameras) for item in kind for p in item.phrases]
    return {word for phrase in phrases for word in re.findall(r"[a-z]+", phrase.replace("{verb}", "").lower()) if len(word) > 2}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
