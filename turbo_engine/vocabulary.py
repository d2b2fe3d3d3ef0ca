"""What a prompt says that the model was never taught, and the nearest words it was. numpy only; quick enough for every edit."""
import random
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import NamedTuple

import numpy as np

from turbo_engine.distill.captions import STOP_WORDS, caption, with_article
from turbo_engine.distill.world import CROSSINGS, ClipSpec, World

Embed = Callable[[list[str]], np.ndarray]
"""Texts -> one vector each, [N, D] float32; meaning decides the angle."""

_MIN_TYPO = 4                # letters; in shorter words one changed letter makes another word
_MIN_PART = 3                # letters of either half of a word that was typed as two
_MIN_COGNATE = 6             # the same in another language: "Pinguin" is a penguin, but "plage" is no plane
_SENTENCE = "it looks like a {}"    # of 8 sentences the best: all-MiniLM-L6-v2 places a bare word badly (fox-television)
_MIN_COSINE = 0.25           # to the mean over subjects; measured: invented words lie below, 1 in 10 nouns too
_MIN_SHARE = 0.6             # of the best one's cosine
_MAX_SUGGESTIONS = 3
_RUNS = (4, 3, 2)            # words in a row that a prompt may share with a scene's phrase
_WORD = re.compile(r"(?:[^\W_]|[\u0900-\u0e7f])+(?:['-][^\W_]+)*|[^\s\w]")    # the range: scripts whose vowels are marks
_IRREGULAR = {"ran": "run", "flew": "fly", "flown": "fly", "swam": "swim", "drove": "drive", "driven": "drive", "spun": "spin",
              "fell": "fall", "fallen": "fall", "grew": "grow", "grown": "grow", "shrank": "shrink", "shrunk": "shrink",
              "stood": "stand"}
_FOREIGN = frozenset("""
ein eine einen einem einer der das dem und im am auf mit unter ist nach beim zum un une le la les du des dans sur avec sous et au
aux el los las una en con del por y il lo gli di nel nella sul sulla uno um uma em na com ao een het op met naar
""".split())                 # small words that English lacks; "die" and "van" are taught ones
_NOWHERE = frozenset("""
among beneath bottom deep erupting fall falling flowers front green hot land lights northern orange outer planet red ringed rock sunny tropical
""".split())                 # words of scenes that by themselves may say anything: "a red car"
_SIDES = re.compile(r"\b(?:left|right|middle|cent(?:re|er))\b", re.IGNORECASE)
_BEGIN_A_PART = frozenset("a an the in on at with and by of from near next beside over under inside behind into through among".split())
_BEFORE_AN_ARTICLE = frozenset("with and beside near to of show see".split())


@dataclass(frozen=True)
class PromptReport:
    """What the model cannot read in a prompt. suggestions: (unknown word, known ones nearest to it) where any are near."""

    unknown_words: tuple[str, ...]
    suggestions: tuple[tuple[str, tuple[str, ...]], ...]
    truncated: bool
    notes: tuple[str, ...]
    """The same in plain sentences, for a person."""
    foreign: bool = False
    """Not in the language the model reads: the first note says so, and its words one by one are of no help."""
    corrected: tuple[tuple[str, str], ...] = ()
    """(word as it was typed, the taught one it is read as): one letter off, and nothing as likely, or typed as two. Not among the unknown."""
    settled: tuple[str, ...] = ()
    """Phrases by which the seed settles what the prompt leaves open: place or way, scene."""
    read_as: str = ""
    """The prompt with these in it, where there are any."""


class Vocabulary:
    """The taught words of one model."""

    def __init__(self, world: World | None, *, text_len: int, count_tokens: Callable[[str], int], embed: Embed | None = None):
        """world: None where the model knows no bounds. embed: None finds neighbours by spelling only."""
        self.world, self.text_len, self.count_tokens, self.embed = world, text_len, count_tokens, embed
        self._remembered: dict[str, tuple[str, ...]] = {}
        self._embedded: _Subjects | None = None
        self._embedding = threading.Lock()
        if world is None:
            return
        self._owner = {phrase.lower(): s.name for s in world.subjects for phrase in (s.name, *s.also)}
        kinds = "camera", "motion", "place", "scene"
        self._subject = re.compile(f"(?<= )(?:{_any_of(world, 'subject')})(?= )")
        self._clause = _whole_words(f"({_any_of(world, *kinds)})")
        self._mention = _whole_words("|".join(f"(?P<{kind}>{_any_of(world, kind)})" for kind in (*kinds, "subject")))
        self._scenes_of: dict[str, set[int]] = {}                                   # by word, where it may be
        self._runs: list[set[tuple[str, ...]]] = []                                # by scene, what its phrases say with such words
        for index, scene in enumerate(world.scenes):
            hints = _words(scene.phrases) - STOP_WORDS - _NOWHERE
            for word in hints:
                self._scenes_of.setdefault(word, set()).add(index)
            self._runs.append({run for phrase in scene.phrases for n in _RUNS for run in _runs(_WORD.findall(phrase), n) if hints & {*run}})
        self._names_with: dict[str, dict[str, str]] = {}                            # by word of a name, its subjects' first names that have it
        for phrase, name in self._owner.items():
            for word in _words([phrase]):
                self._names_with.setdefault(word, {}).setdefault(name, phrase)
        self._subject_words = self._names_with.keys()
        self._things = {phrase.rpartition(" ")[2] for phrase in self._owner}        # "a red hat" is of the top hat's kind
        self._known = _words(_phrases_of_deeds(world)) | STOP_WORDS
        self._deeds = {base for word in self._known if word.endswith("ing") for base in _deed(word)}
        self._travels = {base for verbs in world.verbs.values() for verb in verbs for base in _deed(verb)}
        self._phrases = {phrase for phrases in world.lexicon.values() for phrase, _ in phrases}
        self._compounds = {word for word in {*self._owner} | self._known if len(word) >= 2 * _MIN_PART}
        self._typeable = sorted(word for word in self._subject_words | _words(_phrases_of_deeds(world)) if len(word) > 2)
        self._names = [s.name for s in world.subjects]

    # -- words -------------------------------------------------------------------------------------------------------

    def check(self, prompt: str, seed: int | None = None) -> PromptReport:
        """Unknown words in order of appearance, and what the seed adds. Any text is fine here, an empty one too."""
        tokens = self.count_tokens(prompt)
        truncated = tokens > self.text_len
        report = self._report(prompt, seed) if self.world else PromptReport((), (), False, ())
        if not truncated:
            return report
        note = f"Too long: the model reads {self.text_len} of this prompt's {tokens} tokens, the end is left out."
        return replace(report, truncated=True, notes=(*report.notes, note))

    def read(self, prompt: str, seed: int | None = None) -> str:
        """The prompt as the model should have it: what `check` says is corrected, of subjects one, as it was taught no more, and with its
        article ("bunny jumping" as "a bunny jumping"); no companion where none is named ("with blue sky"). The scene, and the subject's place
        or its way, are the seed's choice where they are not named, so that turbo and full are one shot, and stay it while the rest is typed;
        without a seed they are left open."""
        if self.world is None or (seen := self._look(prompt)).foreign:
            return prompt
        text = self._put_right(seen)
        return text if seed is None else self._settled(text, seed)[0]

    def _mended(self, prompt: str) -> tuple[str, tuple[tuple[str, str], ...]]:
        """With taught words that were typed as two ("under water") in one, and which: (as typed, as read)."""
        parts, found, end = [], [], 0
        words = [*_WORD.finditer(prompt)]
        for first, second in zip(words, words[1:]):
            halves = _plain(first[0]), _plain(second[0])
            if first.start() < end or prompt[first.end():second.start()] != " " or min(map(len, halves)) < _MIN_PART or " ".join(halves) in self._phrases:
                continue
            word = "".join(halves)
            if {word, *_singulars(word)} & self._compounds:
                parts += prompt[end:first.start()], first[0] + second[0].lower()
                found.append((" ".join(halves), word))
                end = second.end()
        return "".join((*parts, prompt[end:])), tuple(dict.fromkeys(found))

    def _put_right(self, seen: "_Seen") -> str:
        """All of `read` but what the seed adds."""
        known = dict(seen.corrected)

        def meant(match: re.Match) -> str:
            return known.get(_plain(match[0]), match[0])

        def one(match: re.Match) -> str:
            single = self._singular(word := _plain(match[0]))
            return match[0] if single == word else single

        prompt = _SHOTS.sub("", seen.prompt)
        prompt = prompt if prompt == seen.prompt else prompt.strip(" ,")
        parts = self._clause.split(_WORD.sub(meant, prompt))
        parts[::2] = [_COMPANY.sub(self._alone, _WORD.sub(one, part)) for part in parts[::2]]     # "among the stars", every other part, is a scene
        return self._mention.sub(self._with_article, "".join(parts))

    def _alone(self, match: re.Match) -> str:
        """"next to the stage" as "by the stage", "with blue sky" as "by blue sky": such words announce a companion, and where no subject follows the
        network makes a shape of its own. So, too, "over the ocean", which is not in it."""
        words = (_plain(word[0]) for word in _WORD.finditer(match.string, match.end()))
        words = takewhile(lambda word: word[0].isalnum() and word not in _BEGIN_A_PART, words)
        return f" by{match['article'] or ''}" if self._things.isdisjoint(words) else match[0]

    def _with_article(self, match: re.Match) -> str:
        """Nine in ten captions it was taught by had one; without, of two subjects each takes on a little of the other."""
        if not match["subject"]:
            return match[0]
        before = match.string[:match.start()].rstrip(" ").rpartition(" ")[2].lower()
        bare = not before[-1:].isalnum() or before in _BEFORE_AN_ARTICLE           # a comma, or nothing, stands before it
        return with_article(match[0]) if bare else match[0]

    def _settled(self, text: str, seed: int) -> tuple[str, tuple[str, ...]]:
        """With what it leaves open put in, as far as that fits, and what that was."""
        added: list[str] = []
        for settle in (self._place, self._scene):
            end, phrase = settle(text, seed)
            settled = f"{text[:end]} {phrase}{text[end:]}"
            if phrase and self.count_tokens(settled) <= self.text_len:
                text = settled
                added.append(phrase)
        return text, tuple(added)

    def _place(self, text: str, seed: int) -> tuple[int, str]:
        """Where to put what: "a penguin on the left jumping"; what just runs, runs to the left or the right. "" where nothing is open.
        Of a place left out the network makes two at once."""
        mentions = [*self._mention.finditer(text)]
        subjects = _joined((m.span() for m in mentions if m["subject"]), text)
        if not subjects or _SIDES.search(self._mention.sub(lambda m: "" if m["camera"] else m[0], text)):
            return 0, ""
        turn = seed // len(self.world.scenes)                                      # another for the same scene
        if not any(m["motion"] for m in mentions) and (end := self._end_of_travel(text)):
            return end, f"to the {CROSSINGS[turn % len(CROSSINGS)]}"
        places = [place for place in self.world.places if place.x or len(subjects) == 1]        # two stand side by side
        return subjects[0][1], places[turn % len(places)].phrases[0]

    def _end_of_travel(self, text: str) -> int:
        """Where the verb of what "runs in a park" ends; 0 where there is none, or it only describes ("a running dog")."""
        rest = self._mention.sub(lambda m: ("\0" if m["subject"] else "\1") * len(m[0]), text)
        return next((m.end() for m in re.finditer(r"\w+(?! *\0)\b", rest) if _deed(m[0].lower()) & self._travels), 0)

    def _scene(self, text: str, seed: int) -> tuple[int, str]:
        """As `_place`. Nothing is open after a phrase, a word of one scene alone ("in a forest") or words that share none ("a snowy beach")."""
        mentions = [*self._mention.finditer(text)]
        if not re.search(r"\w", text) or any(m["scene"] for m in mentions) or not (choices := self._scenes_meant(text)):
            return 0, ""
        end = len(text.rstrip(" .,!?"))
        for mention in mentions:
            if mention["camera"] and mention.end() == end:                         # its clause comes last
                end = len(text[:mention.start()].rstrip(" ,:")) or end
        return end, self.world.scenes[choices[seed % len(choices)]].phrases[0]

    def _scenes_meant(self, text: str) -> list[int]:
        """Which scenes the words outside taught phrases leave to choose from: "in the sea" is what two scenes have, "by the sea" is said of one."""
        words = _WORD.findall(self._mention.sub(" , ", text).lower())
        hints = [self._scenes_of[word] for word in words if word in self._scenes_of]
        choices = sorted(set(range(len(self._runs))).intersection(*hints))
        if len(choices) < 2:
            return []
        nearest = ([i for i in choices if not self._runs[i].isdisjoint(runs)] for runs in (_runs(words, n) for n in _RUNS))
        return next(filter(None, nearest), choices)

    def _look(self, prompt: str) -> "_Seen":
        prompt, mended = self._mended(unicodedata.normalize("NFC", prompt))
        words = [_plain(word) for word in _WORD.findall(prompt.replace("’", "'"))]
        unknown, subjects, followers = self._untaught(words)
        if unknown and _is_foreign(words):
            return _Seen(prompt, unknown, (), subjects, followers, foreign=True)
        wanted, meant = {}, {word: known for word in unknown if (known := self._meant(word))}
        while meant != wanted:                                          # a part of a name means nothing by itself: "a wheeel"
            wanted = meant
            unknown, subjects, followers = self._untaught([meant.get(word, word) for word in words])
            meant = {word: known for word, known in meant.items() if known not in unknown}
        return _Seen(prompt, unknown, mended + tuple(meant.items()), subjects, followers, foreign=False)

    def _untaught(self, words: list[str]) -> tuple[tuple[str, ...], list[str], dict[str, str]]:
        """Of a prompt's words the unknown ones, the subjects' names and the followers, as in `_Seen`."""
        text = " " + " ".join(self._singular(word) for word in words) + " "
        subjects = [self._owner[phrase] for phrase in self._subject.findall(text)]
        rest = self._subject.sub(lambda phrase: "\0" + " \0" * phrase[0].count(" "), text).split(" ")[1:-1]
        unknown = tuple(dict.fromkeys(word for word, left in zip(words, rest) if left != "\0" and self._is_unknown(word)))
        return unknown, subjects, dict(zip(words, rest[1:]))

    def _report(self, prompt: str, seed: int | None) -> PromptReport:
        seen = self._look(prompt)
        _, unknown, corrected, subjects, followers, foreign = seen
        if foreign:
            near = tuple((word, found) for word in unknown if (found := self._spelled_like(word, _MIN_COGNATE)))
            subjects = subjects + [self._owner[found[0]] for _, found in near if found[0] in self._owner]
            return PromptReport(unknown, near, False, (self._english_only(subjects),), foreign=True)
        near = tuple((word, found) for word in unknown if (found := self._nearest(word, describes=followers.get(word) == "\0")))
        notes = [f'Read "{word}" as "{known}".' for word, known in corrected]
        notes += [f'Not taught: "{word}". Nearest it knows: {", ".join(found)}.' for word, found in near]
        if others := [f'"{word}"' for word in unknown if word not in dict(near)]:
            notes.append(f"Not taught, may be ignored: {', '.join(others)}.")
        read_as, settled = ("", ()) if seed is None else self._settled(self._put_right(seen), seed)
        return PromptReport(unknown, near, False, tuple(notes), corrected=corrected, settled=settled, read_as=read_as if settled else "")

    def _is_unknown(self, word: str) -> bool:
        if not word.isascii():
            return word[0].isalnum() or unicodedata.category(word[0]) == "So"
        return any(c.isalpha() for c in word) and not (self._known & {word, *_singulars(word)} or self._deeds & _deed(word))

    def _singular(self, word: str) -> str:
        """"foxes" stays; "penguins" is read as "penguin", which is taught."""
        if word in self._subject_words:
            return word
        return next((one for one in _singulars(word) if one in self._subject_words), word)

    def _english_only(self, subjects: list[str]) -> str:
        world = self.world
        chosen = [world.subject(name) for name in dict.fromkeys(subjects)][:2] or [0, len(world.subjects) // 2]
        specs = [ClipSpec(i, i % len(world.scenes), i % len(world.motions), world.camera("still")) for i in chosen]
        examples = [f'"{caption(world, spec, random.Random(0), canonical=True)}"' for spec in specs]
        return f"This model reads English words only, sorry. Try: {' or '.join(examples)}."

    # -- neighbours --------------------------------------------------------------------------------------------------

    def _nearest(self, word: str, *, describes: bool) -> tuple[str, ...]:
        """describes: it stands before a subject ("a purple dog"), so no subject can replace it."""
        if not self._is_real(word) and word not in self._subject_words and (found := self._spelled_like(word, _MIN_TYPO)):
            wholes = ((known, self._wholes(known)) for known in found)
            return tuple(dict.fromkeys(name for known, names in wholes if not (describes and names) for name in names or (known,)))[:_MAX_SUGGESTIONS]
        deed = len(word) > 5 and word.endswith(("ing", "ly")) and not word.endswith("fly")
        if self.embed is None or describes or deed or not word.isascii():
            return ()
        if word not in self._remembered:
            if len(self._remembered) > 10_000:
                self._remembered.clear()
            self._remembered[word] = self._meant_like(word)
        return self._remembered[word]

    def _wholes(self, word: str) -> list[str]:
        """Of each subject the first name that has a word which alone means nothing, as an engine is of a fire engine; those that end
        with it come first."""
        if word in self._owner or not self._is_unknown(word):
            return []
        return sorted(self._names_with.get(word, {}).values(), key=lambda name: not name.endswith(word))

    def _is_real(self, word: str) -> bool:
        """Whether the text encoder knows it as a word of its own, one piece between two marks: then it is no typing error."""
        return self.embed is not None and self.count_tokens(word) == 3

    def _meant(self, word: str) -> str:
        """The taught word that an unknown one must be a slip of; "" where it is a word of its own, or could be several. A subject by
        itself is likelier than a part of one ("snae": a snake, not a snare drum), and that than any other word.

        The first letter is hardly ever the wrong one: a noodle is no poodle, a beagle no eagle.
        """
        if self._is_real(word) or not word.isascii() or word in self._subject_words:
            return ""
        found = [known for known in self._spelled_like(word, _MIN_TYPO) if known[0] == word[0]]
        likeliest = next(filter(None, ([known for known in found if known in kind] for kind in (self._owner, self._subject_words, found))), [])
        return likeliest[0] if len(likeliest) == 1 else ""

    def _spelled_like(self, word: str, min_letters: int) -> tuple[str, ...]:
        if not word.isascii():
            drawn = unicodedata.name(word[0], "").lower().removesuffix(" face")
            return (self._owner[drawn],) if drawn in self._owner else ()
        if len(word) < min_letters:
            return ()
        forms = {word, *_singulars(word)}
        typos = (known for known in self._typeable if known != word and any(one_edit_apart(form, known) for form in forms))
        typos = sorted(typos, key=lambda known: (known not in self._owner, known not in self._known, known))
        return tuple(typos[:_MAX_SUGGESTIONS])

    def _subjects(self) -> "_Subjects":
        """Embedded once, for the first unknown word: more than a second on two cores, which no start need wait for."""
        with self._embedding:
            if self._embedded is None:
                self._embedded = self._embed_subjects()
        return self._embedded

    def _embed_subjects(self) -> "_Subjects":
        phrases = [(phrase, i) for i, s in enumerate(self.world.subjects) for phrase in (s.name, *s.also)]
        sentences = [_SENTENCE.format(phrase) for phrase, _ in phrases]
        order = sorted(range(len(sentences)), key=lambda p: self.count_tokens(sentences[p]))        # alike in length: less padding
        vectors = np.concatenate([self.embed([sentences[p] for p in order[at:at + 64]]) for at in range(0, len(order), 64)])
        vectors = vectors[np.argsort(order)]                                                            # [P, D]
        centre = vectors.mean(0)                                        # what all sentences share says nothing
        starts = np.array([p for p, (_, i) in enumerate(phrases) if p == 0 or i != phrases[p - 1][1]])
        return _Subjects(centre, _unit(vectors - centre), starts)

    def _meant_like(self, word: str) -> tuple[str, ...]:
        centre, vectors, starts = self._subjects()
        cosine = vectors @ _unit(self.embed([_SENTENCE.format(word)])[0] - centre)              # [P]
        likeness = (cosine[starts] + np.maximum.reduceat(cosine, starts)) / 2        # of the name and its best synonym
        floor = max(_MIN_COSINE, _MIN_SHARE * likeness.max())
        return tuple(self._names[i] for i in np.argsort(-likeness)[:_MAX_SUGGESTIONS] if likeness[i] >= floor)


class _Subjects(NamedTuple):
    """What the text encoder makes of the subjects' P phrases. centre [D], vectors [P, D] unit, starts [S]: each subject's first phrase."""

    centre: np.ndarray
    vectors: np.ndarray
    starts: np.ndarray


class _Seen(NamedTuple):
    """What lies open in a prompt, before any neighbour is looked for: that takes longer, and no picture waits for it.

    prompt: with taught words that were typed as two in one. subjects: names of those it is about. followers: by word, what stands
    after it, "\\0" for a word of a subject.
    """

    prompt: str
    unknown: tuple[str, ...]
    corrected: tuple[tuple[str, str], ...]
    subjects: list[str]
    followers: dict[str, str]
    foreign: bool


def one_edit_apart(a: str, b: str) -> bool:
    """Whether one letter inserted, dropped, changed or swapped with its neighbour turns a into b; False if equal."""
    if a == b or abs(len(a) - len(b)) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
    a, b = a[start:], b[start:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or (a[:2] == b[1::-1] and a[2:] == b[2:])


def _any_of(world: World, *kinds: str) -> str:
    """A pattern for every taught phrase of these kinds, one kind after the other, of each the longest first."""
    return "|".join(re.escape(phrase) for kind in kinds for phrase, _ in world.lexicon[kind])


def _whole_words(pattern: str) -> re.Pattern:
    return re.compile(rf"(?<![\w'-])(?:{pattern})(?![\w'-])", re.IGNORECASE)


_COMPANY = re.compile(r" (?:with|next to|near(?: to)?|beside|close (?:to|by)|alongside|(?:over|above|along)(?= (?:an?|the) ))"
                      r"(?P<article> (?:an?|the))?(?![\w'-])", re.IGNORECASE)
_SHOTS = _whole_words("(?:an? )?(?:extreme )?close[- ]?ups?(?: shot)?(?: of)?|(?:with )?(?:an? )?(?:shallow )?depth of field")    # film speech


def _phrases_of_deeds(world: World) -> list[str]:
    """All phrases but the subjects'."""
    phrases = [p for kind in (world.scenes, world.motions, world.cameras, world.places) for item in kind for p in item.phrases]
    return phrases + [*world.companion_phrases] + [v for verbs in world.verbs.values() for v in verbs]


def _joined(spans: Iterable[tuple[int, int]], text: str) -> list[tuple[int, int]]:
    """Spans with only blanks between them as one: a "robot dog" is one thing."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and text[joined[-1][1]:start].isspace():
            start = joined.pop()[0]
        joined.append((start, end))
    return joined


def _words(phrases) -> set[str]:
    return {word for phrase in phrases for word in _WORD.findall(re.sub(r"{\w+}", "", phrase.lower()))}


def _runs(words: list[str], length: int) -> set[tuple[str, ...]]:
    """What stands in a row there, so many words at a time."""
    return {*zip(*(words[i:] for i in range(length)))}


def _singulars(word: str) -> tuple[str, ...]:
    """What a regular plural or a possessive may stand for, likelier first: "horses" -> "horse", "hors"."""
    word = re.sub("'s?$", "", word)
    if word.endswith("men"):
        return (word, word[:-2] + "an")
    if not word.endswith("s") or word.endswith("ss"):
        return (word,)
    if word.endswith("ies"):
        return (word, word[:-3] + "y", word[:-1])
    return (word, word[:-1], word[:-2]) if re.search("(s|x|z|ch|sh|o)es$", word) else (word, word[:-1])


def _deed(word: str) -> set[str]:
    """Verbs of which a word may be a form: "hopping", "hopped", "hops" and "hop" share "hop"."""
    bases = {_IRREGULAR.get(word, word), *_singulars(word)}
    for ending in ("ing", "ed"):
        stem = word.removesuffix(ending)
        if stem != word and re.search("[aeiouy]", stem) and len(stem) > 1:
            bases |= {stem, stem + "e"}
            bases |= {stem[:-1]} if stem[-1] == stem[-2] else {stem[:-1] + "y"} if stem[-1] == "i" else set()
    return bases


def _plain(word: str) -> str:
    """In lower case, without accents where that leaves plain letters: "Zèbre" -> "zebre"; other scripts stay."""
    word = word.lower()
    plain = "".join(c for c in unicodedata.normalize("NFKD", word) if not unicodedata.combining(c))
    return plain if plain.isascii() else word


def _is_foreign(words: list[str]) -> bool:
    """Whether a text is in another script, in pictures only, or has more small words of another language than English ones."""
    letters = [c.isascii() for word in words for c in word if c.isalpha()]
    if sum(letters) * 2 < len(letters) or not letters:
        return True
    return sum(w in _FOREIGN for w in words) > sum(w in STOP_WORDS for w in words)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
