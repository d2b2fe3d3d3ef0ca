"""The pocket world: its words, its held-out share, its captions there and back, and its clips."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest

from turbo_engine.distill.captions import caption, parse_caption
from turbo_engine.distill.world import ClipSpec, is_held_out, load_world, sample_specs

WORLD = load_world()
KINDS = ("subject", "scene", "motion", "camera", "companion", "place")


# -- words -----------------------------------------------------------------------------------------------------------------

def test_world_has_the_promised_breadth():
    assert 140 <= len(WORLD.subjects) <= 155
    assert (len(WORLD.scenes), len(WORLD.motions), len(WORLD.cameras), len(WORLD.places)) == (10, 12, 7, 3)
    assert all(2 <= len(subject.also) <= 5 for subject in WORLD.subjects)
    for name in ("penguin", "dog", "cat", "T-Rex", "rocket", "taxi", "sailboat", "snowman", "butterfly", "giraffe"):
        WORLD.subject(name)


def test_unknown_keys_and_shared_phrases_are_refused_by_name(tmp_path):
    from turbo_engine.distill.world import WORLD_FILE

    text = WORLD_FILE.read_text()
    broken = tmp_path / "world.toml"
    broken.write_text("scnes = []\n" + text)
    with pytest.raises(ValueError, match="scnes"):
        load_world(broken)
    broken.write_text(text.replace('"kitty"', '"puppy"', 1))
    with pytest.raises(ValueError, match="puppy"):
        load_world(broken)


def test_held_out_share_is_five_percent_of_triples():
    triples = itertools.product(range(len(WORLD.subjects)), range(len(WORLD.scenes)), range(len(WORLD.motions)))
    held = [is_held_out(ClipSpec(s, c, m, 0)) for s, c, m in triples]
    assert abs(np.mean(held) - 0.05) < 0.005


def test_sampling_respects_the_held_out_triples_and_the_scene():
    rng = random.Random(0)
    assert not any(map(is_held_out, sample_specs(WORLD, 3000, rng)))
    assert all(map(is_held_out, sample_specs(WORLD, 100, rng, held_out=True)))
    assert {spec.scene for spec in sample_specs(WORLD, 50, rng, scene=3)} == {3}
    assert sample_specs(WORLD, 20, random.Random(5)) == sample_specs(WORLD, 20, random.Random(5))
    flips = [WORLD.motions[spec.motion].name == "flip" for spec in sample_specs(WORLD, 1000, rng, motion_weights={"flip": 12})]
    assert 440 < sum(flips) < 560          # twelve of 24 draws
    often = [6] + (len(WORLD.subjects) - 1) * [1]
    firsts = [spec.subject == 0 for spec in sample_specs(WORLD, 4000, rng, subject_weights=often)]
    assert 100 < sum(firsts) < 210         # six of 158 draws, where it was one of 153


# -- captions --------------------------------------------------------------------------------------------------------------

def test_every_canonical_caption_parses_back():
    """All subjects with all motions (verbs differ by class), and all scenes with all cameras and motions."""
    still = WORLD.camera("still")
    sizes = [range(len(items)) for items in (WORLD.subjects, WORLD.scenes, WORLD.motions, WORLD.cameras)]
    for subject, scene, motion, camera in itertools.product(*sizes):
        if subject % 7 and (scene, camera) != (subject % 10, motion % 7):      # every seventh subject in full
            continue
        text = caption(WORLD, ClipSpec(subject, scene, motion, camera), random.Random(0), canonical=True)
        found = parse_caption(WORLD, text)
        expected = {"subject": subject, "scene": scene, "motion": motion, "unknown": []}
        if camera != still:
            expected["camera"] = camera
        assert found == expected, text


def test_random_captions_say_nothing_untrue():
    rng = random.Random(1)
    for spec in sample_specs(WORLD, 2000, rng):
        text = caption(WORLD, spec, rng)
        found = parse_caption(WORLD, text)
        assert "subject" in found and not found["unknown"], text
        assert not (WORLD.crosses(spec) and "place" in found), text
        for kind in KINDS:
            assert found.get(kind, getattr(spec, kind)) == getattr(spec, kind), text
        assert len(text.split()) <= 26, text


def test_what_a_caption_leaves_out_is_at_its_default():
    """Where one in five that named no camera had one that moves, the full render of such a prompt moved it now and then, and turbo did not."""
    rng = random.Random(2)
    silent, placed = {"motion": [], "camera": []}, []
    for spec in sample_specs(WORLD, 4000, rng):
        found = parse_caption(WORLD, caption(WORLD, spec, rng))
        if spec.companion is not None:
            assert "companion" in found
        if not WORLD.crosses(spec):                          # any place is as likely: the app says the seed's
            placed.append("place" in found)
        for kind, default in (("motion", WORLD.motion("still")), ("camera", WORLD.camera("still"))):
            if kind not in found:
                silent[kind].append(getattr(spec, kind) == default)
    assert len(silent["motion"]) > 100 < len(silent["camera"]) and all(silent["motion"]) and all(silent["camera"])
    assert 0.94 < np.mean(placed) < 0.99


def test_parsing_what_users_type():
    found = parse_caption(WORLD, "A cute PUPPY bouncing on the beach with a kitty, zoom in!")
    assert WORLD.subjects[found["subject"]].name == "dog"
    assert WORLD.subjects[found["companion"]].name == "cat"
    assert WORLD.scenes[found["scene"]].name == "beach"
    assert WORLD.motions[found["motion"]].name == "bounce"
    assert WORLD.cameras[found["camera"]].name == "zoom in"
    assert WORLD.places[parse_caption(WORLD, "in the Centre a cat moving left past a dog")["place"]].name == "middle"
    assert "place" not in parse_caption(WORLD, "a cat moving right, camera pans left")
    assert parse_caption(WORLD, "a wizard on a broomstick")["unknown"] == ["wizard", "broomstick"]


def test_the_same_clips_in_other_words():
    """Each kind, as the app reads it, still says what its clip shows, but for some plurals and typing errors that could mean two words."""
    from turbo_engine.distill.prompts import counted_prompts, other_words
    from turbo_engine.vocabulary import Vocabulary

    specs, plain = counted_prompts(WORLD, 300, 100)
    vocabulary = Vocabulary(WORLD, text_len=32, count_tokens=len)
    said = other_words(WORLD, specs)
    assert [*said] == ["three words", "sentence", "plural", "typing error"] and said == other_words(WORLD, specs)
    for kind, (which, prompts) in said.items():
        right = 0
        for index, prompt in zip(which, prompts, strict=True):
            found = parse_caption(WORLD, vocabulary.read(prompt))
            right += all(found.get(part) == getattr(specs[index], part) for part in ("subject", "motion") + ("scene",) * (kind != "three words"))
            assert kind == "sentence" or prompt != plain[index]
        assert len(prompts) > 30 and right >= {"plural": 0.95, "typing error": 0.9}.get(kind, 1) * len(prompts), (kind, right)
    assert all(len(prompt.split()) == 3 for prompt in said["three words"][1])
    assert [*other_words(WORLD, [spec_of("T-Rex", motion="right")])] == ["sentence", "plural", "typing error"]


# -- clips -----------------------------------------------------------------------------------------------------------------

torch = pytest.importorskip("torch")
pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def compositor():
    from turbo_engine.distill.clips import Compositor

    return Compositor(WORLD)


def spec_of(subject="penguin", scene="desert", motion="still", camera="still", **other) -> ClipSpec:
    return ClipSpec(WORLD.subject(subject), WORLD.scene(scene), WORLD.motion(motion), WORLD.camera(camera), **other)


def centre_of(mask) -> np.ndarray:
    """Centre of coverage of [T, H, W], in -1..1: [T, 2] (x, y)."""
    side = torch.linspace(-1, 1, mask.shape[-1])
    weight = mask.sum((1, 2)).clamp(min=1e-6)
    return torch.stack([(mask * side).sum((1, 2)) / weight, (mask * side[:, None]).sum((1, 2)) / weight], -1).numpy()


def test_shapes_ranges_and_order(compositor):
    specs = [spec_of(scene="desert"), spec_of(scene="space"), spec_of("bus", "desert", "right", companion=WORLD.subject("cat"))]
    frames, mask = compositor.render(specs, size=64, num_frames=9)
    assert frames.shape == (3, 3, 9, 64, 64) and mask.shape == (3, 1, 9, 64, 64)
    assert frames.dtype == mask.dtype == torch.float32
    assert 0 <= frames.min() and frames.max() <= 1 and 0 <= mask.min() and mask.max() <= 1
    alone, _ = compositor.render(specs[1:2], size=64, num_frames=9)
    assert torch.allclose(alone[0], frames[1], atol=1e-5)
    again, _ = compositor.render(specs, size=64, num_frames=9)
    assert torch.equal(frames, again)


def test_subject_is_large_and_stays_in_the_frame(compositor):
    specs = [spec_of(motion=motion.name, camera=camera, scene="desert")
             for motion in WORLD.motions for camera in ("still", "zoom in", "pan right", "tilt down")]
    _, mask = compositor.render(specs, size=64, num_frames=9)
    border = torch.zeros(64, 64, dtype=torch.bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    for spec, cover in zip(specs, mask[:, 0]):
        name = WORLD.motions[spec.motion].name
        share = cover.mean((1, 2))
        middle = share[2:7] if name != "drop" else share[2:]
        assert middle.min() > (0.035 if name in ("grow", "shrink", "spin", "flip") else 0.08), name
        inside = 1 - cover[2:7][:, border].sum() / cover[2:7].sum()
        assert inside > 0.93, (name, WORLD.cameras[spec.camera].name)


def test_every_motion_and_camera_is_its_own(compositor):
    """No two motions, and no two cameras, look alike."""
    for kind, specs in (
        ("motion", [spec_of("dog", motion=motion.name) for motion in WORLD.motions]),
        ("camera", [spec_of("dog", camera=camera.name) for camera in WORLD.cameras]),
    ):
        frames, _ = compositor.render(specs, size=64, num_frames=9)
        for i, j in itertools.combinations(range(len(specs)), 2):
            assert (frames[i] - frames[j]).abs().mean() > 0.004, (kind, i, j)


def test_a_pan_moves_the_ground_the_other_way(compositor):
    _, mask = compositor.render([spec_of(camera="pan right"), spec_of(camera="tilt up")], size=64, num_frames=9)
    panned, tilted = centre_of(mask[0, 0]), centre_of(mask[1, 0])
    assert panned[-1, 0] < panned[0, 0] - 0.4
    assert tilted[-1, 1] > tilted[0, 1] + 0.3                  # looking up, the picture moves down


def test_directions_and_facing(compositor):
    """A dog's art faces left: walking right it is mirrored, and the rocket's, which faces right, is not."""
    from turbo_engine.distill.motion import camera_path, subject_pose

    camera = camera_path("still", 9)
    for subject, motion, mirrored in (("dog", "right", True), ("dog", "left", False), ("rocket", "right", False), ("rocket", "left", True), ("penguin", "right", False)):
        pose = subject_pose(WORLD, spec_of(subject, motion=motion), camera)
        assert ((pose.width < 0).all()) == mirrored, (subject, motion)
        assert (pose.x[-1] > pose.x[0]) == (motion == "right")
    rolling = subject_pose(WORLD, spec_of("soccer ball", motion="right"), camera)
    assert rolling.angle[-1] > rolling.angle[0] + 1            # clockwise when it rolls right
    right, left = (compositor.render([spec_of("dog", "space", m)], size=64, num_frames=9)[1][0, 0, 4] for m in ("right", "left"))
    assert (right - left.flip(-1)).abs().mean() < 0.02 < (right - left).abs().mean()


def test_what_moves_steadily_moves_by_whole_or_half_latent_pixels_a_latent_frame():
    """16 x 16 pixels and four frames: 0.125 screen units of a picture that is two wide. And what bobs on its way does so in 16 frames."""
    from turbo_engine.distill.motion import camera_path, subject_pose

    for name, axis in (("pan left", "pan"), ("pan right", "pan"), ("tilt up", "tilt"), ("tilt down", "tilt")):
        path = getattr(camera_path(name, 33), axis)
        sign = -1 if name in ("pan left", "tilt down") else 1
        np.testing.assert_allclose(path[4:] - path[:-4], sign * 0.0625, atol=1e-6)
    walks = {subject.moves: subject.name for subject in WORLD.subjects}
    for moves, subject in walks.items():
        for motion, camera, step in (("right", "still", 0.125), ("left", "still", -0.125), ("right", "pan left", 0.0625), ("right", "zoom in", 0.0625)):
            pose = subject_pose(WORLD, spec_of(subject, motion=motion), camera_path(camera, 33))
            np.testing.assert_allclose(pose.x[4:] - pose.x[:-4], step, atol=1e-6, err_msg=f"{moves} {motion} {camera}")
            np.testing.assert_allclose(pose.lift[16:], pose.lift[:-16], atol=1e-5, err_msg=moves)
            assert abs(pose.x).max() <= 0.5


@pytest.mark.parametrize("motion, smallest", [("grow", 0), ("shrink", -1)])
def test_what_grows_or_shrinks_is_half_its_size_at_least(motion, smallest):
    """At a third of it a flamingo was a pink dot."""
    from turbo_engine.distill.motion import SIZE, camera_path, subject_pose

    pose = subject_pose(WORLD, spec_of("flamingo", motion=motion), camera_path("still", 33))
    assert pose.height[smallest] == pose.height.min() == pytest.approx(SIZE / 2) and pose.height.max() > SIZE
    np.testing.assert_array_equal(pose.width, pose.height)


def test_a_flip_turns_over_once_in_the_air():
    from turbo_engine.distill.motion import camera_path, subject_pose

    still, flip = (subject_pose(WORLD, spec_of("dog", motion=motion), camera_path("still", 33)) for motion in ("still", "flip"))
    assert (np.sign(flip.height) != np.sign(np.roll(flip.height, 1))).sum() == 2 and flip.height[0] > 0.99 and flip.height[16] < -0.99
    assert flip.lift[16] > 0.3 and abs(flip.y[0] - still.y[0]) < 0.01 and flip.y[16] < flip.y[0] - 0.3
    assert np.ptp(flip.width) == 0 and not flip.angle.any()


@pytest.mark.parametrize("motion, side", [("spin", "width"), ("flip", "height")])
def test_what_turns_is_no_card(motion, side):
    from turbo_engine.distill.motion import DEPTH, camera_path, subject_pose

    seen = abs(getattr(subject_pose(WORLD, spec_of("dog", motion=motion), camera_path("still", 33)), side))
    assert DEPTH <= seen.min() < 1.1 * DEPTH and seen.max() <= 1


def test_a_jump_leaves_a_shadow_on_the_ground(compositor):
    """The sketch's shadow was gone at the top of a jump."""
    from turbo_engine.distill.clips import Compositor

    elsewhere = replace(WORLD, places=tuple(replace(place, x=5.0) for place in WORLD.places))
    clips = [made.render([spec_of(motion="jump")], size=64, num_frames=33) for made in (compositor, Compositor(elsewhere))]
    frames, mask = (torch.cat(parts) for parts in zip(*clips))
    top = 14
    ground = slice(50, 54), slice(24, 40)
    assert mask[0, 0, top][ground].max() == 0
    with_shadow, without = (frames[i, :, top][(slice(None), *ground)].mean() for i in (0, 1))
    assert with_shadow < 0.88 * without


def test_crop_and_window_are_cut_from_the_full_render(compositor):
    spec = spec_of("elephant", "meadow", "bounce", "zoom in", companion=WORLD.subject("cat"))
    full, _ = compositor.render([spec], size=64, num_frames=9)
    part, part_mask = compositor.render([spec], size=64, num_frames=9, window=5, crop=32, rng=random.Random(3))
    assert part.shape == (1, 3, 5, 32, 32) and part_mask.shape == (1, 1, 5, 32, 32)
    best = min(
        (full[0, :, t : t + 5, y : y + 32, x : x + 32] - part[0]).abs().max().item()
        for t in range(5) for y in range(33) for x in range(33)
    )
    assert best < 1e-3
    with pytest.raises(ValueError, match="rng"):
        compositor.render([spec], size=64, crop=32)


def test_contact_sheet(tmp_path):
    from turbo_engine.distill.sheet import contact_sheet

    video = np.zeros((5, 16, 16, 3), np.uint8)
    path = contact_sheet([video] * 3, ["a", "b", "c"], tmp_path / "sheet.png", columns=2, frames=(0, 4), thumb=32)
    assert path.stat().st_size > 100
    with pytest.raises(ValueError, match="labels"):
        contact_sheet([video], [], tmp_path / "sheet.png")


def test_a_long_label_stays_under_its_strip(tmp_path):
    """A caption's last words were missing, and with them the camera."""
    import cv2

    from turbo_engine.distill.sheet import contact_sheet

    def inked(label: str) -> np.ndarray:
        path = contact_sheet([np.zeros((1, 8, 8, 3), np.uint8)] * 2, [label, ""], tmp_path / "sheet.png", columns=2, frames=(0,), thumb=300)
        return np.flatnonzero((cv2.imread(str(path))[306:] > 100).any((0, 2)))

    short, long, longer = inked("a cat"), inked("a cat jumping in a green meadow, the camera pans right"), inked("a cat " * 40)
    assert short.max() < 60 and 240 < long.max() < 306 and 280 < longer.max() < 306
