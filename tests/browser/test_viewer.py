"""The player's modules by themselves, in the browser that runs them."""

import pytest

from turbo_engine.resample import by_time, count_at

from .desk import DeskPage


@pytest.fixture
def desk(page, fake_app) -> DeskPage:
    return DeskPage(page, fake_app.url).open_bare()


def test_clock(desk):
    assert desk.module("clock", """
        const c = new m.Clock({ fps: 16, total: 33 }), seen = [];
        seen.push(c.index(1000));                       // stands until told to play
        c.play(1000); seen.push(c.index(1062), c.index(1063), c.index(1000 + 33 * 62.5));
        c.pause(1500); seen.push(c.index(1500), c.index(9999));
        c.step(-9, 9999); seen.push(c.index(9999));     // wraps
        c.seek(20, 0); c.play(0); c.fit({ fps: 16, total: 9 }, 0); seen.push(c.index(0), c.index(63));
        c.play(500); seen.push(c.index(500));           // playing twice does not jump
        return seen;
    """) == [0, 0, 1, 0, 8, 8, 32, 8, 0, 7]


def test_a_trimmed_clock_plays_only_its_part(desk):
    assert desk.module("clock", """
        const c = new m.Clock({ fps: 10, total: 20 }), seen = [];
        c.trimTo(5, 8, 0); seen.push(c.index(0));                       // standing still, it may be looked at from outside
        c.play(0); seen.push([0, 100, 300, 400, 1000].map((now) => c.index(now)));
        c.pause(100); c.seek(15, 100); c.play(200); seen.push(c.index(200));
        c.shuttle(-1, 200); seen.push([200, 300, 500].map((now) => c.index(now)));
        c.pause(200); c.loops = false; c.seek(5, 0); c.play(0); seen.push(c.index(900)); c.rest(900); seen.push(c.playing); c.play(1000); seen.push(c.index(1000));
        c.trimTo(0, 19, 1000); seen.push(c.trim);                       // all of it is no trim
        c.trimTo(4, Infinity, 1000); seen.push(c.trim);
        c.fit({ fps: 20, total: 40 }, 1000); seen.push(c.trim, c.index(1000));  // another rate: the same time
        c.fit({ fps: 20, total: 6 }, 1000); seen.push(c.trim);          // nothing of it is left
        return seen;
    """) == [0, [5, 6, 8, 5, 7], 5, [5, 8, 6], 8, False, 5, None, {"from": 4, "to": 19}, {"from": 8, "to": 38}, 10, None]


RATES = [(33, 16, 16), (17, 8, 16), (33, 16, 24), (7, 16, 24), (5, 16, 24), (81, 16, 25), (49, 12, 30), (1, 16, 60), (9, 24, 24)]


def test_time_is_told_as_the_server_tells_it(desk):
    """Length, rate -> ticks of another clock and the frame at each: what is measured and exported is what was on screen."""
    expected = []
    for total, fps, clock in RATES:
        ticks = count_at(total, fps, clock)
        expected.append([ticks, by_time(total, fps, clock, ticks + 3)])
    assert desk.module("time", f"""return {[list(rate) for rate in RATES]}.map(([total, fps, clock]) => {{ const ticks = m.ticksOf(total, fps, clock);
        return [ticks, Array.from({{ length: ticks + 3 }}, (_, tick) => Math.min(m.frameAt(tick, fps, clock), total - 1))]; }});""") == expected


def test_the_clock_of_two_clips_and_the_part_of_one_on_it(desk):
    assert desk.module("time", """
        const slow = { total: 17, fps: 8 }, quick = { total: 33, fps: 16 }, clock = m.clockOf([slow, quick]);
        return [clock, m.ticksFor(4, 5, slow, clock), m.ticksFor(0, 16, slow, clock), m.ticksFor(3, 32, quick, clock)];
    """) == [{"fps": 16, "total": 34}, {"from": 8, "to": 11}, {"from": 0, "to": 33}, {"from": 3, "to": 33}]


def test_wire(desk):
    assert desk.module("wire", """
        const bytes = new Uint8Array([0xff, 0, 0, 7, 3, 0, 32, 0, 33, 0xff, 0xd8]);
        const f = m.parseFrame(bytes.buffer);
        let short = ''; try { m.parseFrame(new ArrayBuffer(5)); } catch (e) { short = e.name; }
        return [f.generation, f.kind, f.index, f.total, [...f.jpeg], short, [0, 1, 2, 3, 4, 5].map(m.sideOf), [0, 1, 2, 3, 4, 5].map(m.isRough)];
    """) == [0xFF000007, 3, 32, 33, [0xFF, 0xD8], "RangeError", ["turbo", "turbo", "full", "full", "a", "b"], [True, False, False, True, False, False]]


def test_clip_takes_frames_in_any_order_and_gives_them_all_back(desk):
    assert desk.module("clip", """
        let open = 0;
        const decode = async (name) => { open += 1; return { name, close() { open -= 1; } }; };
        const clip = new m.Clip({ generation: 1, kind: 1, total: 3 }, decode), seen = [];
        await clip.add(2, 'c'); seen.push(clip.ready(0), clip.ready(2), clip.frameAt(1));
        await clip.add(0, 'a'); await clip.add(0, 'again'); seen.push(clip.frameAt(1).name, clip.complete);
        await clip.add(1, 'b'); await clip.add(3, 'beyond'); seen.push(clip.complete, clip.arrived, open);
        const late = clip.add(1, 'late'); clip.close(); await late; seen.push(open, clip.frameAt(0));
        const slow = new m.Clip({ generation: 1, kind: 0, total: 2 }, decode), waiting = slow.add(0, 'x');
        slow.close(); await waiting; seen.push(open);   // a frame that arrives after the end is closed too
        const kept = new m.Clip({ generation: 1, kind: 2, total: 1 }, decode);
        await kept.add(0, 'k'); kept.kept = true; kept.release(); seen.push(open); kept.close(); seen.push(open);
        return seen;
    """) == [False, True, None, "a", False, True, 3, 3, 0, None, 0, 1, 0]


def test_a_rough_clip_swings_in_the_frames_it_has(desk):
    assert desk.module("clip", """
        const clip = new m.Clip({ generation: 1, kind: 0, total: 5 }), still = new m.Clip({ generation: 1, kind: 0, total: 1 });
        return [[0, 3, 4, 5, 6, 7, 8, 9, 12, 32].map((i) => clip.ownIndex(i)), still.ownIndex(17)];
    """) == [[0, 3, 4, 3, 2, 1, 0, 1, 4, 0], 0]


@pytest.mark.parametrize("prompt, group, insert, expected", [
    ("a penguin on a beach", "subjects", "owl", "an owl on a beach"),
    ("An owl on a beach", "subjects", "penguin", "A penguin on a beach"),
    ("A BLACK CAT on a beach", "subjects", "owl", "An owl on a beach"),
    ("a concatenation on a beach", "subjects", "owl", "an owl a concatenation on a beach"),
    ("", "subjects", "owl", "an owl"),
    ("an owl on a beach, zoom in", "scenes", "in space", "an owl in space, zoom in"),
    ("an owl, zoom in", "scenes", "in space", "an owl in space, zoom in"),
    ("an owl on a beach", "motions", "spinning", "an owl spinning on a beach"),
    ("an owl", "cameras", "zoom in", "an owl, zoom in"),
    ("a black cat jumping on a beach", "places", "on the left", "a black cat on the left jumping on a beach"),
    ("an owl on the right, zoom in", "places", "on the left", "an owl on the left, zoom in"),
    ("a moose, zoom in", "places", "on the left", "a moose on the left, zoom in"),
])
def test_phrases(desk, prompt, group, insert, expected):
    assert desk.module("phrases", f"""
        const groups = {{ subjects: [{{ phrases: ['cat', 'owl', 'penguin'] }}, {{ phrases: ['black cat'] }}], motions: [{{ phrases: ['jumping'] }}],
            scenes: [{{ phrases: ['on a beach'] }}], places: [{{ phrases: ['on the right'] }}], cameras: [{{ phrases: ['zoom out'] }}] }};
        return m.put({prompt!r}, groups, {group!r}, {{ insert: {insert!r} }});
    """) == expected


@pytest.mark.parametrize("prompt, word, known, expected", [
    ("a pengin and a pengin", "pengin", "owl", "an owl and an owl"),
    ("a bear beside a bearskin", "bear", "teddy bear", "a teddy bear beside a bearskin"),
    ("Pengin", "pengin", "penguin", "penguin"),
    ("a robot", "pengin", "penguin", "a robot"),
    ("🦊 jumps", "🦊", "fox", "fox jumps"),
])
def test_replace_word(desk, prompt, word, known, expected):
    assert desk.module("phrases", f"return m.replaceWord({prompt!r}, {word!r}, {known!r});") == expected
