"""Words outside the taught world: found, explained, and answered with what is near."""
import time

import numpy as np
import pytest

from turbo_engine.distill.world import load_world
from turbo_engine.vocabulary import Vocabulary, one_edit_apart

SENSIBLE = """
fox: dog cat deer rabbit squirrel tiger leopard skunk; wolf: dog tiger leopard deer poodle;
lion: tiger leopard elephant zebra cat; panda: teddy_bear monkey gorilla otter sloth elephant orangutan penguin;
koala: kangaroo sloth monkey otter orangutan teddy_bear; unicorn: horse zebra dragon;
goose: duck swan turkey chick penguin rooster bird; donkey: horse goat zebra cow camel llama pig; moose: deer bison;
beaver: otter squirrel skunk; raccoon: skunk squirrel otter hedgehog; hamster: mouse squirrel rabbit;
lizard: snake turtle T-Rex dragon; crocodile: T-Rex hippopotamus turtle snake shark; stegosaurus: T-Rex brontosaurus mammoth;
frog: turtle duck snake; dragonfly: butterfly bee ladybug dragon; ant: bee ladybug spider caterpillar;
mosquito: bee ladybug spider butterfly bat; beetle: ladybug bee caterpillar spider;
raven: bird dove eagle owl black_cat bat parrot; ostrich: flamingo peacock turkey rooster swan bird giraffe;
walrus: seal whale otter; starfish: octopus jellyfish crab star fish tropical_fish squid;
spaceman: rocket satellite robot space_invader flying_saucer;
astronaut: rocket satellite robot planet space_invader flying_saucer moon; princess: crown castle nesting_doll;
knight: castle crown dragon horse; wizard: top_hat dragon castle ghost; pirate: ship sailboat parrot dragon;
clown: top_hat balloon tropical_fish; zombie: ghost space_invader robot;
cookie: doughnut cupcake birthday_cake ice_cream_cone pizza hamburger; coffee: teapot doughnut cupcake;
sandwich: hamburger pizza; pear: apple orange banana strawberry pineapple;
lemon: orange pineapple apple banana watermelon strawberry; sofa: television house teddy_bear;
tent: house umbrella castle parachute; tank: jeep fire_engine delivery_truck tractor car train airplane ship;
submarine: ship speedboat whale canoe sailboat shark; tram: bus train bullet_train taxi; limousine: taxi car racing_car jeep bus;
drone: helicopter airplane satellite robot flying_saucer bee; comet: star planet moon rocket satellite sun; violin: guitar drum;
piano: guitar drum; lantern: pumpkin fire disco_ball umbrella balloon; rainbow: sun cloud umbrella parachute;
daisy: sunflower rose tulip; oak: tree pine_tree palm_tree; volleyball: soccer_ball basketball billiard_ball;
ring: crown diamond; wristwatch: alarm_clock diamond
"""
"""Untaught noun: taught subjects that are sensible in its place."""


@pytest.fixture(scope="module")
def by_spelling() -> Vocabulary:
    return Vocabulary(load_world(), text_len=16, count_tokens=lambda prompt: len(prompt.split()) + 2)


@pytest.fixture(scope="module")
def roomy() -> Vocabulary:
    return Vocabulary(load_world(), text_len=32, count_tokens=lambda prompt: len(prompt.split()) + 2)


@pytest.mark.parametrize("prompt, unknown", [
    ("a penguin bouncing on a beach at sunset, camera zooms in", ()),
    ("PENGUIN", ()), ("a unicorn", ("unicorn",)), ("a blorp, a penguin and a wug", ("blorp", "wug")),
    ("", ()), ("a the of", ()), ("...!?", ()), ("a wug wug", ("wug",)),
    ("a penguin 🎻", ("🎻",)), ("a penguin 鸟", ("鸟",)), ("an exposé", ("expose",)),
    ("a penguin without a dog", ("without",)),
])
def test_unknown_words(by_spelling, prompt, unknown):
    report = by_spelling.check(prompt)
    assert report.unknown_words == unknown
    assert bool(report.notes) == bool(unknown)
    assert all(any(f'"{word}"' in note for note in report.notes) for word in unknown)


@pytest.mark.parametrize("prompt, unknown", [
    ("a dog in a meadow", ()), ("at the snowy beach", ()), ("in a volcano", ()), ("a cat over the sea, photo", ()),
    ("a panda walking", ("panda",)), ("a house swimming", ()), ("a dog walks", ()), ("a dog walked", ()), ("dogs hop", ()),
    ("a dog that hopped and flew", ()), ("7 penguins", ()), ("a dog's house", ()), ("two fire engines", ("two",)),
    ("puppies and snowmen on beaches", ()), ("a dog, a cat, a mouse and a T-Rex", ()), ("the magician’s hat", ()),
    ("a dog parking", ("parking",)), ("a fishing cat", ("fishing",)), ("an engine", ("engine",)), ("a shed", ("shed",)),
])
def test_other_wordings_of_taught_words(by_spelling, prompt, unknown):
    """"a dog in a meadow" was called untaught: only whole phrases counted, and only the first two subjects."""
    assert by_spelling.check(prompt).unknown_words == unknown


@pytest.mark.parametrize("prompt, example", [
    ("ein Hund am Strand", ""), ("un chien sur la plage", ""), ("un perro en la playa", ""), ("鸟在飞", ""), ("펭귄", ""),
    ("कुत्ता", ""), ("пингвин", ""), ("ein Pinguin im Schnee", "a penguin"), ("ein Tiger im Schnee", "a tiger"),
    ("🎻", ""), ("🐧🏖️", "a penguin"),
])
def test_other_languages_get_one_kind_note(by_spelling, prompt, example):
    report = by_spelling.check(prompt)
    (note,) = report.notes
    assert report.foreign and report.unknown_words and note.startswith("This model reads English words only") and example in note
    for words in note.split('"')[1::2]:
        assert by_spelling.check(words).notes == (), words


@pytest.mark.parametrize("prompt", ["a car in Las Vegas", "a wug", "an exposé", "a penguin 鸟", "a tiger",
                                    "...!?", "7", "", "\0 \u200d"])
def test_english_is_not_taken_for_another_language(by_spelling, prompt):
    assert not any("English" in note for note in by_spelling.check(prompt).notes)


@pytest.mark.parametrize("typo, known", [("pengiun", "penguin"), ("Zebrra", "zebra"), ("rockte", "rocket"), ("beech", "beach"),
                                         ("pengiuns", "penguin"), ("jumpng", "jumping"), ("snae", "snake"), ("ronot", "robot")])
def test_typing_errors_are_put_right(by_spelling, typo, known):
    prompt = f"My {typo} on the BEACH, camera still"
    report = by_spelling.check(prompt)
    assert report.corrected == ((typo.lower(), known),) and report.notes == (f'Read "{typo.lower()}" as "{known}".',)
    assert not report.unknown_words and not report.suggestions
    assert by_spelling.read(prompt) == prompt.replace(typo, known)


def test_a_name_of_two_words_is_known_by_what_is_put_right(by_spelling):
    """"Ferris" was called unknown, and read as "ferris"."""
    report = by_spelling.check("a ferris whpeel in the snow")
    assert report.corrected == (("whpeel", "wheel"),) and report.notes == ('Read "whpeel" as "wheel".',)


@pytest.mark.parametrize("word, near", [("wheeel", ("ferris wheel",)), ("snaree", ("snare drum",)), ("engin", ("steam engine", "fire engine")),
                                        ("snare", ()), ("xnight", ("night",)), ("pace", ("space", "race car"))])
def test_a_part_of_a_name_is_none(by_spelling, word, near):
    """"Engin" was read as "engine", and that called unknown by a word that stood nowhere; "snare" was read as "snake"."""
    report = by_spelling.check(f"a {word} in the snow")
    assert report.unknown_words == (word,) and report.suggestions == (((word, near),) if near else ()) and not report.corrected
    assert not any(by_spelling.check(f"a {name} in the snow").unknown_words for name in near)
    assert by_spelling.read(f"a {word} in the snow") == f"a {word} in the snow"


@pytest.mark.parametrize("word", ["purple", "purpel"])
def test_no_name_stands_before_a_subject(by_spelling, word):
    """A purple penguin is not to be a purple alien penguin."""
    report = by_spelling.check(f"a {word} penguin")
    assert report.unknown_words == (word,) and report.suggestions == () and not report.corrected


@pytest.mark.parametrize("typed, read, corrected", [
    ("a shark under water", "a shark underwater", (("under water", "underwater"),)),
    ("Speed Boats by the sea side!", "a speedboat by the seaside!", (("speed boats", "speedboats"), ("sea side", "seaside"))),
    ("a sail boat and a snow man", "a sail boat and a snow man", ()),           # taught so too
    ("a cat under, water", "a cat under, water", ()), ("a rain bow", "a rain bow", ())])
def test_a_taught_word_typed_as_two_is_one(by_spelling, typed, read, corrected):
    """"Under water" was no scene: the seed added another, and the clip was a mix of both."""
    report = by_spelling.check(typed)
    assert by_spelling.read(typed) == read and report.corrected == corrected
    assert report.notes[:len(corrected)] == tuple(f'Read "{was}" as "{known}".' for was, known in corrected)


def test_no_taught_phrase_is_put_together(by_spelling):
    phrases = [phrase for found in load_world().lexicon.values() for phrase, _ in found]
    assert not [phrase for phrase in phrases if by_spelling.check(phrase).corrected]


def test_the_model_waits_for_no_neighbours():
    """They are looked up by meaning, which takes longer, for the page alone: an engine starts and a prompt is read without."""
    asked = []

    def embed(texts):
        asked.append(texts)
        return np.ones((len(texts), 3), np.float32)

    vocabulary = Vocabulary(load_world(), text_len=32, count_tokens=lambda text: len(text.split()) + 2, embed=embed)
    assert vocabulary.read("two xylophones and a dog") == "two xylophones and a dog" and asked == []
    vocabulary.check("two xylophones and a dog")
    subjects = len(asked) - 1
    assert subjects > 0 and asked[-1] == ["it looks like a xylophones"]
    vocabulary.check("two wheelbarrows and a dog")
    assert len(asked) == subjects + 2                                   # the subjects once


@pytest.mark.parametrize("prompt, read", [
    ("a dragon growing next to a volcano", "a dragon growing by a volcano"), ("a cat Close to the beautiful SEA", "a cat by the beautiful SEA"),
    ("a dog near to an erupting volcano", "a dog by an erupting volcano"), ("an owl beside the lava, zoom in", "an owl by the lava, zoom in"),
    ("a robot near a city at night", "a robot by a city at night"), ("then next to the stage a penguin jumps", "then by the stage a penguin jumps"),
    ("a rabbit with blue sky in a meadow", "a rabbit by blue sky in a meadow"), ("a cat alongside a wheelbarrow", "a cat by a wheelbarrow"),
    ("a cat close to a pengiun", "a cat close to a penguin"), ("a cat near me in a forest", "a cat by me in a forest"), ("a cat with two Dogs", "a cat with two dog"),
    ("a bird flying over the ocean", "a bird flying by the ocean"), ("a dog runs along the beach", "a dog runs by the beach"),
    *[(kept, kept) for kept in (
        "a dragon near an erupting volcano", "a dog near the pyramids", "a dragon near a ringed planet in space", "a cat beside a volcano",
        "a cat next to a dog in the city", "a cat near a small dog by the sea", "a cat next to an octopus underwater", "a cat near a house in a forest",
        "a cat with a ball", "a cat with a red hat", "a cat without a ball", "nearby a cat jumps",
        "a bird above the cloud", "a cat flipping over", "jumping over and over")]])
def test_where_nothing_taught_follows_there_is_no_companion(roomy, prompt, read):
    """Next to the stage stood a shape of many colours."""
    assert roomy.read(prompt) == read


@pytest.mark.parametrize("prompt, read", [
    ("a cat, close-up", "a cat"), ("A close-up of a cat on the beach", "a cat on the beach"), ("extreme close up shot of a dog", "a dog"),
    ("an owl in the city, 8k, shallow depth of field", "an owl in the city, 8k"), ("a cat in a field", "a cat in a field"), ("a cat,", "a cat,")])
def test_film_speech_is_no_thing_and_no_scene(roomy, prompt, read):
    """Of a close-up there was a companion, of a depth of field a meadow."""
    assert roomy.read(prompt) == read


@pytest.mark.parametrize("prompt, read", [
    ("Two Penguins dancing among the stars", "Two penguin dancing among the stars"), ("foxes and dogs", "foxes and a dog"),
    ("A Dog by the sea", "A Dog by the sea"), ("the dog's house, pengiuns too", "the dog house, a penguin too"),
    ("Stars and trees growing among the stars", "a star and a tree growing among the stars"),
    ("Tiger im Schnee mit Hunden", "Tiger im Schnee mit Hunden")])
def test_of_subjects_one_is_read(by_spelling, prompt, read):
    assert by_spelling.read(prompt) == read


@pytest.mark.parametrize("prompt, read", [
    ("bunny jumping, with teddy", "a bunny jumping, with a teddy"), ("owl", "an owl"), ("dice", "dice"), ("video of pony", "video of a pony"),
    ("soccer balls bouncing near cute cat", "a soccer ball bouncing near cute cat"), ("a cute owl", "a cute owl"), ("my cat", "my cat"),
    ("star among the stars", "a star among the stars"), ("downtown, T-Rex hops", "downtown, a T-Rex hops")])
def test_a_subject_has_its_article(by_spelling, prompt, read):
    assert by_spelling.read(prompt) == read


@pytest.mark.parametrize("prompt, read", [
    ("a penguin", "a penguin {place} {scene}"), ("cat dancing!", "a cat {place} dancing {scene}!"), ("a penguin ju", "a penguin {place} ju {scene}"),
    ("a purple cat", "a purple cat {place} {scene}"), ("zoom in: a cat", "zoom in: a cat {place} {scene}"), ("zoom in", "zoom in {scene}"),
    ("an owl jumping, the camera zooms in", "an owl {place} jumping {scene}, the camera zooms in"), ("a cat zoom out.", "a cat {place} {scene} zoom out."),
    ("a penguin at the snowy beach", "a penguin {place} at the snowy beach"), ("a star among the stars", "a star {place} among the stars"),
    ("a robot dog, pan left", "a robot dog {place} {scene}, pan left"), ("a wug", "a wug {scene}"), ("a running dog", "a running dog {place} {scene}"),
    ("a cat at the left", "a cat at the left {scene}"), ("a cat in the center of a street", None), ("a cat moving to the right on the beach", None),
    ("dogs run in a park", "a dog run {way} in a park"), ("a dog running on the beach, pan left", "a dog running {way} on the beach, pan left"),
    ("a dog jumping, flying", "a dog {place} jumping, flying {scene}"), ("", None), ("?!", None), ("ein Pinguin", None)])
def test_the_seed_settles_what_is_left_open(roomy, prompt, read):
    """Left to the noise, turbo and full had two scenes or two places now and then, and they moved with every letter."""
    world = load_world()
    for seed in (0, 7, 12, 25, 2 ** 32):
        turn = seed // len(world.scenes)
        choice = {"scene": world.scenes[seed % len(world.scenes)].phrases[0], "place": world.places[turn % 3].phrases[0],
                  "way": ("to the left", "to the right")[turn % 2]}
        assert roomy.read(prompt, seed) == (read.format(**choice) if read else roomy.read(prompt))


@pytest.mark.parametrize("prompt, scenes", [
    ("a boat in the sea", ("beach", "underwater")), ("a boat in the ocean", ("underwater",)), ("a cat by the sea", ("beach",)),
    ("a sand castle", ("beach", "desert")), ("a dog at night", ("snow", "city")),
    ("a city bus", None), ("a snowman", None), ("a red car", None), ("a green robot", None), ("a hot dog falling down", None),
    ("a cat in a forest", ()), ("a dog at noon", ()), ("a cat in the ocean at dusk", ()), ("a night owl under the sea", ())])
def test_a_word_of_some_scenes_leaves_the_seed_the_choice_of_those(roomy, prompt, scenes):
    """A boat in the ocean was in a forest, and a red car nowhere in particular, as a stage has a red curtain. None: all scenes are open."""
    found = {(roomy.check(prompt, seed).settled or ("",))[-1] for seed in range(60)}
    world = load_world()
    first = {scene.name: scene.phrases[0] for scene in world.scenes}
    added = found & {*first.values()}
    assert added == {first[name] for name in (first if scenes is None else scenes)}, found


def test_what_the_seed_adds_is_told(roomy, by_spelling):
    report = roomy.check("wugs, cats dancing", 7)
    assert report.settled == ("on the left", "in a city at night") and report.unknown_words == ("wugs",)
    assert report.read_as == roomy.read("wugs, cats dancing", 7) == "wugs, a cat on the left dancing in a city at night"
    for prompt, seed in (("a cat", None), ("a cat moving left underwater", 7), ("ein Hund", 7), ("", 7)):
        assert (roomy.check(prompt, seed).settled, roomy.check(prompt, seed).read_as) == ((), "")
    long = by_spelling.check("a cat" + " cute" * 20, 7)
    assert long.truncated and not long.settled


def test_of_two_none_stands_in_the_middle(roomy):
    """The other would have two places to choose from."""
    assert {roomy.read("a cat by the sea with a dog", seed) for seed in range(100)} == {
        f"a cat {place} by the sea with a dog on a beach at sunset" for place in ("on the left", "on the right")}


@pytest.mark.parametrize("more, seed, read", [
    (20, 0, "a cat on the left{} on a beach at sunset"), (21, 0, "a cat on the left{}"), (25, 0, "a cat on the left{}"), (26, 0, "a cat{}"),
    (26, 5, "a cat{} underwater"), (28, 5, "a cat{}")])
def test_what_does_not_fit_stays_open(roomy, more, seed, read):
    """32 tokens with two marks, a word each; the place comes first."""
    assert roomy.read("a cat" + " cute" * more, seed) == read.format(" cute" * more)


@pytest.mark.clock
@pytest.mark.parametrize("prompt", ["a cat" + " " * 1_990 + "x", "a cat zooms in" + "." * 1_980, "x" * 1_000 + " cat" * 250, "," * 2_000, "'" * 2_000,
                                    (" " * 20 + "zoom in") * 70, "zoom in, " * 220, "a cat" + " with x" * 285, "close-up " * 220])
def test_the_longest_prompts_are_read_in_no_time(roomy, prompt):
    """They were 1.9 s for one long word before many subjects, 0.6 s for many blanks."""
    start = time.perf_counter()
    roomy.read(prompt, 7)
    assert time.perf_counter() - start < 0.3


def test_what_says_everything_is_read_as_it_is(roomy):
    from turbo_engine.distill.prompts import counted_prompts

    world, (specs, prompts) = load_world(), counted_prompts(load_world(), 600, 200)
    assert [roomy.read(prompt) for prompt in prompts] == prompts
    read = [roomy.read(prompt, seed) for seed, prompt in enumerate(prompts)]
    assert [roomy.read(prompt, seed) for seed, prompt in enumerate(read)] == read
    assert [now == before for now, before in zip(read, prompts)] == [world.crosses(spec) for spec in specs]


@pytest.mark.parametrize("word, near", [("noodle", ("poodle",)), ("elefant", ()), ("catle", ("castle", "cattle")), ("🐧", ("penguin",)), ("🦖", ("T-Rex",))])
def test_what_may_be_another_word_is_asked_about(by_spelling, word, near):
    report = by_spelling.check(f"a {word}")
    assert report.unknown_words == (word,) and not report.corrected and by_spelling.read(f"a {word}") == f"a {word}"
    assert report.suggestions == (((word, near),) if near else ())


@pytest.mark.parametrize("prompt", ["a moose", "a racoon", "a stork and a dog", "ein Pinguim im Schnee", "", "a penguin"])
def test_words_of_their_own_are_left_alone(engine, prompt):
    assert engine.check_prompt(prompt).corrected == ()


@pytest.mark.parametrize("mode, options", [("turbo", {}), ("full", {"num_steps": 2})])
def test_turbo_and_full_are_made_of_what_is_read(engine, mode, options):
    """The recipe keeps what was typed; a negative prompt is given no scene to steer away from."""
    from turbo_engine import Request

    def clip(prompt, negative):
        *_, result = engine.generate(Request(prompt, negative_prompt=negative, seed=4, mode=mode, **options))
        return result

    typed, read = clip("zebra jumping", "whale"), clip("a zebra jumping in outer space", "a whale")
    assert (typed.frames == read.frames).all() and typed.recipe["prompt"] == "zebra jumping" and typed.notes == ()
    if mode == "full":
        assert (clip("zebra jumping", "a whale in outer space").frames != typed.frames).any()


def test_a_typing_error_makes_the_clip_of_the_word(engine):
    from turbo_engine import Request

    def clip(prompt):
        *_, result = engine.generate(Request(prompt, seed=5))
        return result

    right, wrong = clip("an umbrella floating in the desert"), clip("an umgrella floating in the desret")
    assert (right.frames == wrong.frames).all() and wrong.recipe["prompt"] == "an umgrella floating in the desret"
    assert [note.split('"')[1] for note in wrong.notes] == ["umgrella", "desret"]


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
                                        ("astronaut", "rocket"), ("moose", "deer"), ("lion", "tiger"), ("fox", "deer"),
                                        ("coffee", "teapot"), ("submarine", "ship"), ("drone", "helicopter")])
def test_neighbours_by_meaning(engine, word, near):
    """Not by spelling alone: "moose" is one letter from "mouse", which it is not."""
    (found, names), = engine.check_prompt(f"a {word} in space").suggestions
    assert found == word and near in names and len(names) <= 3
    assert "mouse" not in names


def test_share_of_sensible_neighbours(engine):
    """"fox" was near television, leopard, eagle.

    Of 54 nouns 76 % have a sensible first neighbour and 64 % of all named are sensible; with vectors of bare words, as before,
    57 % and 55 %. What is sensible was written down first, but the sentence was chosen on this list: on 30 other nouns 70 % and
    60 %, before 63 % and 53 %.
    """
    first, shown = [], []
    for line in SENSIBLE.split(";"):
        noun, sensible = line.strip().split(": ")
        names = dict(engine.check_prompt(f"a {noun}").suggestions).get(noun, ())
        good = [name.replace(" ", "_") in sensible.split() for name in names]
        first.append(bool(good) and good[0])
        shown += good
    assert len(first) == 54
    assert sum(first) / 54 >= 0.7 and sum(shown) / len(shown) >= 0.6 and len(shown) > 2 * 54


def test_no_neighbours_for_noise_and_deeds(engine):
    for word in ("xqz", "asdfgh", "juggling", "slowly"):
        assert engine.check_prompt(f"a penguin {word}").suggestions == ()
    assert engine.check_prompt("a purple penguin").suggestions == ()            # a penguin is not to be an orange instead


@pytest.mark.clock
def test_quick_enough_for_every_edit(engine):
    """Under 20 ms with one new word, the fastest of many, since other work may share the machine."""
    def seconds(noun):
        start = time.perf_counter()
        assert engine.check_prompt(f"a {noun} bouncing on a beach at sunset, camera zooms in").unknown_words == (noun,)
        return time.perf_counter() - start
    assert min(map(seconds, "sofa lamp desk pencil bottle spoon ladder bucket carpet window".split())) < 0.02
