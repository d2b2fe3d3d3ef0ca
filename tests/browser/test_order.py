"""Messages delayed, doubled, reordered and dropped: the real page never goes back to an older clip. `make soak` tries 5,000 seeds."""

import json
from pathlib import Path

import pytest
from websockets.sync.client import connect

from turbo_engine.media import encode_jpeg

from .conftest import ARGS, CHROMIUM, App

# A socket without a server: a test says what comes over it.
STUB = """
window.WebSocket = class {
  static OPEN = 1;
  constructor() { this.readyState = 1; window.socket = this; setTimeout(() => this.onopen?.()); }
  send() {}
  close() {}
};
"""
# Plays `seeds` one after another; each is some clips, their messages shaken, and a look at every change of what is shown.
PLAY = """
async ({ header, pictures, from, seeds, broken }) => {
  const desk = document.querySelector('.desk');
  const wait = async () => {                            // until what came is decoded and drawn
    await createImageBitmap(new Blob([jpegs[0]], { type: 'image/jpeg' }));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  };
  const jpegs = pictures.map((text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)));
  let state, top = 1000, changes = 0;
  const random = () => { state = (state * 1664525 + 1013904223) >>> 0; return state / 2 ** 32; };
  const rank = () => 2 * Number(desk.dataset.shown ?? 0) + (desk.dataset.rough === 'true' ? 0 : 1);
  const wrong = [];
  for (let seed = from; seed < from + seeds; seed += 1) {
    state = seed * 2654435761 >>> 0;
    const units = [], clips = 2 + Math.floor(random() * 4), base = top;
    for (let n = 1; n <= clips; n += 1) for (const kind of [0, 1]) {
      const generation = base + n, total = 2, messages = [{ ...header, generation, kind, total, step: 1, num_steps: 4 }];
      for (let index = 0; index < total; index += 1) {
        const bytes = new Uint8Array(9 + jpegs[n].length), view = new DataView(bytes.buffer);
        view.setUint32(0, generation); view.setUint8(4, kind); view.setUint16(5, index); view.setUint16(7, total);
        bytes.set(jpegs[n], 9);
        messages.push(bytes.buffer);
      }
      units.push({ messages, at: 2 * n + kind + 4 * random() });
    }
    const last = units.at(-1).messages;                 // the newest whole clip comes once more at the end, as after a reconnection
    units.sort((a, b) => a.at - b.at);                  // clips out of turn
    const shaken = units.flatMap(({ messages }) => messages).filter(() => random() > 0.1).flatMap((m) => (random() < 0.15 ? [m, m] : [m]));
    for (let i = 0; i + 1 < shaken.length; i += 1) {    // and single messages
      if (random() < 0.15) [shaken[i], shaken[i + 1]] = [shaken[i + 1], shaken[i]];
    }
    let highest = rank();
    const look = () => {
      const now = rank();
      if (now !== highest) changes += 1;
      if (now < highest) wrong.push({ seed, from: highest, to: now });
      highest = Math.max(highest, now);
    };
    const watch = new MutationObserver(look);
    watch.observe(desk, { attributes: true, attributeFilter: ['data-shown', 'data-rough'] });
    for (const message of [...shaken, ...last]) {
      socket.onmessage({ data: message instanceof ArrayBuffer ? message : JSON.stringify(message) });
      if (random() < 0.3) await wait();
    }
    for (let tries = 0; tries < 300 && rank() !== 2 * (base + clips) + 1; tries += 1) await wait();
    await wait();
    watch.disconnect();
    if (rank() !== 2 * (base + clips) + 1) wrong.push({ seed, ended: desk.dataset.shown, rough: desk.dataset.rough, wanted: base + clips });
    top = base + clips;
  }
  return { wrong, changes };
}
"""


def messages_of(app: App, folder: Path) -> list[dict]:
    """What the running app says to a fresh page until its first whole clip: hello, engine, clip and the rest."""
    headers, said = {"Authorization": f"Bearer {(folder / 'token').read_text()}"}, []
    with connect(app.url.replace("http", "ws") + "rt/ws", additional_headers=headers, max_size=None) as socket:
        socket.send('{"op": "edit", "generation": 1, "prompt": "a robot", "seed": 1}')
        while not (said and said[-1]["type"] == "clip" and "id" in said[-1]):
            message = socket.recv(60)
            if isinstance(message, str):
                said.append(json.loads(message))
    return said


def pictures() -> list[str]:
    import base64

    import numpy as np
    return [base64.b64encode(jpeg).decode() for jpeg in encode_jpeg(np.stack([np.full((16, 16, 3), 40 * n, np.uint8) for n in range(6)]))]


def play(context, app: App, folder: Path, start: int, seeds: int, *, broken: bool = False) -> dict:
    """Wrong turns and how often the picture changed. broken: with a page that takes whatever comes."""
    said = messages_of(app, folder)
    page = context.new_page()
    page.add_init_script(STUB)
    if broken:
        page.route("**/rt/viewer/order.js", lambda route: route.fulfill(
            body="export class Order { admits() { return true; } }", content_type="text/javascript"))
    page.goto(app.url)
    page.wait_for_function("() => window.socket?.onmessage && document.querySelector('.desk')")
    for message in said:
        if message["type"] in ("hello", "engine", "live"):
            page.evaluate("(text) => socket.onmessage({ data: text })", json.dumps(message))
    found = page.evaluate(PLAY, {"header": said[-1], "pictures": pictures(), "from": start, "seeds": seeds, "broken": broken})
    page.close()
    return found


@pytest.fixture(scope="module")
def own_app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("order")
    app = App("-m", "tests.browser.fake_app", "0", str(folder))
    while len(app.lines) < 2:
        pass
    yield app, folder
    assert app.stop() == 0


def test_nothing_old_is_ever_shown(context, own_app):
    context.set_default_timeout(110_000)
    found = play(context, *own_app, 0, 40)
    assert found["wrong"] == [] and found["changes"] > 40


def test_a_page_that_takes_whatever_comes_is_seen(context, own_app):
    """The control."""
    context.set_default_timeout(110_000)
    assert play(context, *own_app, 0, 24, broken=True)["wrong"]


def soak(count: int) -> int:
    """For `make soak`: that many seeds in a browser of its own. Returns: how often the picture changed."""
    import tempfile

    from playwright.sync_api import sync_playwright
    folder = Path(tempfile.mkdtemp())
    app = App("-m", "tests.browser.fake_app", "0", str(folder))
    try:
        while len(app.lines) < 2:
            pass
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
            changes = 0
            for start in range(0, count, 100):
                context = browser.new_context()
                context.set_default_timeout(600_000)
                found = play(context, app, folder, start, min(100, count - start))
                assert found["wrong"] == [], found["wrong"][:3]
                changes += found["changes"]
                context.close()
            browser.close()
    finally:
        app.stop()
    return changes
