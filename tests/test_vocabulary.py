"""Words outside the taught world: found, explained, and answered with what is near."""
import time

import pytest

from turbo_engine.distill.world import load_world
from turbo_engine.vocabulary import Vocabulary, one_edit_apart


@pytest.fixture(scope="module")
def by_spelling() -> Vocabulary:
    return Vocabulary(load_world(), text_len=16, count_tokens=lambda prompt: len(prompt.split()) + 2)


@pytest.mark.parametrize("prompt, unknown", [
    ("a penguin bouncing on a beach at sunset, camera zooms in", ()),
    ("PENGUIN", ()), ("a unicorn", ("unicorn",)), ("a blorp, a penguin and a wug", ("blorp", "wug")),
    ("", ()), ("a the of", ()), ("...!?", ()), ("a wug wug", ("wug",)), ("7 penguins", ("penguins",)),
    ("пингвин", ("пингвин",)), ("鸟在飞", ("鸟在飞",)), ("a penguin 🎻", ("🎻",)), ("an exposé", ("expose",)),
])
def test_unknown_words(by_spelling, prompt, unknown):
    report = by_spelling.check(prompt)
    assert report.unknown_words == unknown
    assert bool(report.notes) == bool(unknown)
    assert all(any(f'"{word}"' in note for note in report.notes) for word in unknown)


@pytest.mark.parametrize("typo, known", [("pengiun", "penguin"), ("penguins", "penguin"), ("elefant", None), ("zebrra", "zebra"),
                                         ("rockte", "rocket"), ("beech", "beach"), ("🐧", "penguin"), ("🦖", "T-Rex")])
def test_typing_errors(by_spelling, typo, known):
    assert by_spelling.check(f"a {typo}").suggestions == (((typo, (known,)),) if known else ())


@pytest.mark.parametrize("a, b, near", [
    ("penguin", "pengiun", True), ("penguin", "penguins", True), ("penguin", "enguin", True), ("penguin", "pinguin", True),
    ("penguin", "penguin", False), ("penguin", "pengiuns", False), ("ab", "ba", True), ("abc", "cba", False), ("", "a", True),
    ("", "ab", False), ("abcd", "abdce", False),
])
def test_one_edit(a, b, near):
    assert one_edit_apart(a, b) is near and one_edit_apart(b, a) is near


def test_too_long(by_spelling):
    report = by_spelling.check("penguin " * 20)
    assert report.truncated and report.notes[-1].startswith("Too long: the model reads 16 of this prompt's 22 tokens")
    assert not by_spelling.check("penguin " * 14).truncated


def test_a_model_without_bounds():
    free = Vocabulary(None, text_len=16, count_tokens=len)
    assert free.check("a unicorn").unknown_words == () and free.check("a unicorn on the moon").truncated


@pytest.mark.parametrize("word, near", [("stegosaurus", "T-Rex"), ("unicorn", "horse"), ("dragonfly", "dragon"),
                                        ("astronaut", "rocket"), ("moose", "deer"), ("lion", "tiger")])
def test_neighbours_by_meaning(engine, word, near):
    """Not by spelling alone: "moose" is one letter from "mouse", which it is not."""
    (found, names), = engine.check_prompt(f"a {word} in space").suggestions
    assert found == word and near in names and len(names) <= 3
    assert "mouse" not in names


def test_no_neighbours_for_noise_and_deeds(engine):
    for word in ("xqz", "asdfgh", "juggling"):
        assert engine.check_prompt(f"a penguin {word}").suggestions == ()


def test_quick_enough_for_every_edit(engine):
    """Under 20 ms warm, best of five, since other work may share the machine; a new unknown word costs one encoding."""
    prompt = "a unicorn and a wombat bouncing on a beach at sunset, camera zooms in"
    engine.check_prompt(prompt)

    def seconds():
        start = time.perf_counter()
        engine.check_prompt(prompt)
        return time.perf_counter() - start
    assert min(seconds() for _ in range(5)) < 0.02
