// The stage: which clips are on screen, what they are called, and everything to look at them with. It hears of clips as they come and
// knows nothing of how they are asked for.

import { boxOf } from "./blend.js";
import { Clip } from "./clip.js";
import { seconds } from "./dom.js";
import { Match } from "./match.js";
import { Pair } from "./pair.js";
import { labelOf, Picks, sidesOf } from "./picks.js";
import { Player } from "./player.js";
import { sameShot } from "./shots.js";
import { Transport } from "./transport.js";
import { parseFrame, sideOf } from "./wire.js";
import { Zoom } from "./zoom.js";

const ZOOM_STEP = 1.5;
export const PICKED = ["a", "b"];               // from the history; the others are of this shot
const SIDES = ["turbo", "full", ...PICKED];

export class Stage {
  /**
   * picks: the entries compared before a reload. keys: of the desk, key -> action; the stage has its own besides.
   * askPick(entry, place): have a clip of the history sent; returns its generation. onShown(clip), onWhole(clip): as the player tells.
   * onLaidOut(): other clips, or other names of them, are on screen.
   */
  constructor(root, { picks, keys, askPick, onShown, onWhole, onLaidOut }) {
    this.root = root;
    this.$ = (selector) => root.querySelector(selector);
    this._on = { onShown, onWhole, onLaidOut };
    this._incoming = new Map();     // "side/generation/kind" -> the clip whose frames are arriving
    this._rendering = false;
    this.shown = null;              // the turbo clip on screen
    this.full = null;               // the last full clip; beside the turbo clip where it is of the same shot
    this.picks = new Picks(picks, { ask: askPick, onChange: () => this._picked() });
    this.zoom = new Zoom(this.$(".sides"), (scale) => this._zoomed(scale));
    this.pair = new Pair(root, this.zoom);
    this.match = new Match(root, { onJump: (frame) => this.player.seek(frame) });
    this.player = new Player(
      Object.fromEntries(SIDES.map((side) => [side, this.$(`.side-${side} .picture`)])),
      {
        playing: !matchMedia("(prefers-reduced-motion: reduce)").matches,
        onSwap: (clip) => this._clipShown(clip),
        onWhole: (clip) => this._clipWhole(clip),
        onTick: (now) => this._ticked(now),
        onDraw: (bitmaps) => this.pair.draw(bitmaps),
      },
    );
    this.player.show(["turbo"]);
    this.transport = new Transport(root, this.player, { ...keys, ...this._keys() });
    this.$(".unpick").addEventListener("click", () => this.unpick());
    this.$(".whole").addEventListener("click", () => this.zoom.reset());
  }

  _keys() {
    return {
      Escape: () => this.unpick(),
      b: () => this.pair.choose("side"),
      w: () => this.pair.choose("wipe"),
      x: () => this.pair.choose("flip"),
      d: () => this.pair.choose("difference"),
      o: () => this.pair.choose("onion"),
      s: () => this.pair.swap(),
      "+": () => this.zoom.by(ZOOM_STEP),
      "=": () => this.zoom.by(ZOOM_STEP),
      "-": () => this.zoom.by(1 / ZOOM_STEP),
      0: () => this.zoom.reset(),
    };
  }

  // -- clips that come ------------------------------------------------------------------------------------------------

  /** A clip's header; its pictures follow. A whole full render is kept. Returns: the clip. */
  offer(header) {
    const side = sideOf(header.kind), clip = new Clip(header);
    for (const key of this._incoming.keys()) if (key.startsWith(`${side}/`)) this._incoming.delete(key);
    this._incoming.set(`${side}/${header.generation}/${header.kind}`, clip);
    this.player.offer(clip);
    if (side === "full" && !clip.rough) {
      clip.kept = true;
      this.full = clip;
    }
    return clip;
  }

  /** A picture of one of them, as it comes over the socket. */
  picture(bytes) {
    const { generation, kind, index, jpeg } = parseFrame(bytes);
    this._incoming.get(`${sideOf(kind)}/${generation}/${kind}`)?.add(index, jpeg);
  }

  /** Whatever is still on its way belongs to nobody. */
  forgetIncoming() {
    this._incoming.clear();
  }

  // -- the full render's place ----------------------------------------------------------------------------------------

  /** Whether a full render is under way: it has its place beside the turbo clip then. */
  set rendering(on) {
    this._rendering = on;
    if (!on && !this.full) this.dropFull();
    this.layOut();
  }

  dropFull() {
    if (this.full) this.full.kept = false;
    this.full = null;
    this.player.clear("full");
    const side = this.$(".side-full");
    side.dataset.empty = "true";
    side.dataset.rough = "false";
    side.querySelector(".save").hidden = true;
    side.querySelector(".side-facts").textContent = "";
  }

  /** Back to this shot, turbo and full. */
  unpick() {
    if (!this.picks.any) return;
    if (document.activeElement === this.$(".unpick")) this.$(".play").focus();
    this.picks.clear();
  }

  // -- what is on screen ----------------------------------------------------------------------------------------------

  /** The finished clips on screen, first and second: what they are called, and as the server described them. */
  finished() {
    return this.sides.map((side) => ({ clip: this._clipOf(side), ...this._label(side) })).filter(({ clip }) => clip && !clip.rough)
      .map(({ name, clip }) => ({ name, header: clip.header }));
  }

  /** Which sides are on screen, first and second. */
  get sides() {
    const shown = this.shown?.header, full = this.full?.header;
    const fits = Boolean(shown && full) && sameShot(full, shown);
    return sidesOf({ a: this.picks.clip("a"), b: this.picks.clip("b"), full: this._rendering || fits });
  }

  /** One large picture, or two: what was picked; a full render under way, or one of the very shot of the turbo clip. */
  layOut() {
    const sides = this.sides, two = sides.length > 1, clips = sides.map((side) => this._clipOf(side));
    for (const side of SIDES) {
      const figure = this.$(`.side-${side}`), place = sides.indexOf(side);
      figure.hidden = place < 0;
      figure.dataset.place = place;
      if (place >= 0) this._caption(side);
    }
    this.root.dataset.two = two;
    this._shape(sides);
    this.player.show(sides);
    this.pair.enable(two && clips.every(Boolean) ? sides.map((side) => ({ side, ...this._label(side) })) : null);
    this.$(".unpick").hidden = !this.picks.any;
    this.root.dataset.picked = sides.some((side) => PICKED.includes(side));
    this._measure();
    this._on.onLaidOut();
  }

  /** How far the turbo clip is: a thread under it. */
  thread(share) {
    this.$(".side-turbo .thread i").style.transform = `scaleX(${share})`;
  }

  /** What the turbo clip that is being made is at. */
  tell(line) {
    if (this.sides.includes("turbo")) this.$(".side-turbo .side-facts").textContent = line;
  }

  /** The clip of a side, where there is one to look at and compare. */
  _clipOf(side) {
    if (side === "full") return this.player.current("full") === this.full ? this.full : null;
    return side === "turbo" ? this.shown : this.picks.clip(side);
  }

  /** What a side is called and says of itself; with clips of two shots that is more. */
  _label(side) {
    const sides = this.sides, picked = sides.some((name) => PICKED.includes(name)), mode = this._clipOf(side)?.header.mode ?? side;
    return { mode, ...labelOf({ ...this._clipOf(side)?.header, mode }, picked ? "AB"[sides.indexOf(side)] : "") };
  }

  /** What stands under a side's picture. */
  _caption(name) {
    const side = this.$(`.side-${name}`), facts = side.querySelector(".side-facts"), save = side.querySelector(".save");
    const label = this._label(name), { rough, header } = this._clipOf(name) ?? this.player.current(name) ?? { rough: true };
    side.querySelector(".side-name").textContent = label.name;
    side.dataset.mode = label.mode;
    save.hidden = rough;
    if (!header) return;
    if (rough) {
      facts.textContent = `step ${header.step} of ${header.num_steps}`;
      return;
    }
    const { num_steps: steps, sampler } = header.recipe, made = `${steps} ${steps === 1 ? "step" : "steps"} · ${seconds(header.stage_s.total)}`;
    facts.textContent = label.words || made;
    facts.title = label.words ? `${header.prompt}\n${made}, ${sampler}, seed ${header.seed}` : `${sampler}, seed ${header.seed}`;
    save.href = `/rt/clip/${header.id}.mp4`;
    save.setAttribute("aria-label", `Save the ${header.recipe.mode} clip as MP4`);
  }

  /** The frames take the shape of what they show. */
  _shape(sides) {
    const [a, b] = sides.map((side) => this.player.current(side)?.header).filter(Boolean);
    if (!a) return;
    const { width, height } = boxOf(a, b ?? a);
    this.root.style.setProperty("--aspect", width / height);
    this.pair.aspect = width / height;
  }

  /** Numbers for the pair on screen, once both clips are whole: until then the cores have clips to decode. */
  _measure() {
    const clips = this.sides.map((side) => this._clipOf(side));
    if (clips.length > 1 && clips.every((clip) => clip && !clip.rough && clip.complete)) {
      this.match.measure(...clips.map(({ header }) => header.id), this.player.timed);
    } else {
      this.match.clear();
    }
  }

  // -- what the parts tell ---------------------------------------------------------------------------------------------

  _clipShown(clip) {
    const side = this.$(`.side-${clip.side}`);
    side.dataset.empty = "false";
    side.dataset.rough = clip.rough;
    if (clip.side === "turbo") {
      this.shown = clip;
      Object.assign(this.root.dataset, { shown: clip.generation, shownPrompt: clip.header.prompt, rough: clip.rough });
    }
    this.picks.shown(clip);
    this._on.onShown(clip);
    this.layOut();
  }

  _clipWhole(clip) {
    this._measure();
    this._on.onWhole(clip);
  }

  _ticked(now) {
    const { index, playing, past } = now;
    this.transport.show(now);
    this.match.at(index);
    this.pair.past(past);
    for (const side of SIDES) this.$(`.side-${side}`).dataset.past = past.includes(side);
    this.root.dataset.index = index;
    if (this.shown && (index === 0 || !playing)) {          // the room takes a little of the picture's light, once a loop: it repaints the page
      const canvas = this.$(".ambient-canvas");
      canvas.getContext("2d").drawImage(this.$(`.side-${this.sides[0]} .picture`), 0, 0, canvas.width, canvas.height);
    }
  }

  /** A or B of the pair is another clip, or none. */
  _picked() {
    for (const place of PICKED) if (!this.picks.entries[place]) this.player.clear(place);
    this.layOut();
  }

  _zoomed(scale) {
    const whole = this.$(".whole");
    whole.hidden = scale === 1;
    whole.textContent = `${scale.toFixed(1)}×`;
  }
}
