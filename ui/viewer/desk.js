// The desk: asks for clips, hears what becomes of them, and decides what is on screen. The parts around it know nothing of each other.

import { boxOf } from "./blend.js";
import { Clip } from "./clip.js";
import { element, seconds } from "./dom.js";
import { Drop } from "./drop.js";
import { Export, recipeOf } from "./export.js";
import { Facts } from "./facts.js";
import { FinalControl } from "./final.js";
import { History } from "./history.js";
import { Match } from "./match.js";
import { Pair } from "./pair.js";
import { Models } from "./models.js";
import { Memory } from "./memory.js";
import { Panel } from "./panel.js";
import { labelOf, Picks, sidesOf } from "./picks.js";
import { Player } from "./player.js";
import { Socket } from "./socket.js";
import { Transport } from "./transport.js";
import { parseFrame, sideOf } from "./wire.js";
import { Zoom } from "./zoom.js";

const ZOOM_STEP = 1.5;
const SHOT = ["prompt", "seed", "width", "height", "num_frames", "image_sha256"];      // two clips that agree in these are one shot
const WAITS = "Live waits until the full render is done: both models do not fit into memory together.";
const PICKED = ["a", "b"], SIDES = ["turbo", "full", ...PICKED];      // from the history, and of this shot

export function mount(root) {
  return new Desk(root.querySelector(".desk"));
}

/** What the panel takes over of a clip: its steps are those of its own mode. */
function controlsOf({ prompt, seed, mode, num_steps: steps, sampler, negative_prompt, width, height, num_frames, image_sha256 = "" }) {
  const clip = { prompt, seed, width, height, num_frames, image_sha256 };
  return mode === "full" ? { ...clip, full_steps: steps, negative_prompt } : { ...clip, num_steps: steps, sampler };
}

class Desk {
  constructor(desk) {
    this.desk = desk;
    this.$ = (selector) => desk.querySelector(selector);
    this.generation = 0;
    this.asked = null;              // the newest live edit: { generation, prompt, seed, at, same?, firstMs?, wholeMs? }
    this.edits = new Map();         // generation -> that, while its clip may still come
    this.incoming = new Map();      // "side/generation/kind" -> the clip whose frames are arriving
    this.shown = null;              // the turbo clip on screen
    this.parting = "";              // what is to be said once another model runs
    this.final = null;              // the full render under way: { generation }
    this.full = null;               // the last full clip; shown beside the turbo clip of the same words and seed

    this.facts = new Facts(desk);
    this.panel = new Panel(desk, { onEdit: () => this.edited(), onTrouble: (line) => this.facts.say(line, "error") });
    this.control = new FinalControl(desk, { onStart: () => this.renderFull(), onCancel: () => this.cancelFull() });
    this.$(".export-open").addEventListener("click", () => this.export.open());
    this.paused = false;
    this.$(".pause-live").addEventListener("click", () => this.pauseLive());
    this.$(".keys-open").addEventListener("click", () => this.$(".keys").showModal());
    this.$(".keys-close").addEventListener("click", () => this.$(".keys").close());
    this.drop = new Drop(desk, (file) => (this.panel.first.fits(file) ? this.panel.first.take(file) : this.restore(file)));
    this.models = new Models(desk, { onTrouble: (line) => this.facts.say(line, "error") });
    this.memory = new Memory();
    this.picks = new Picks(this.memory.picks, { ask: (...pick) => this.askPick(...pick), onChange: () => this.picked() });
    this.history = new History(desk, {
      onOpen: (entry) => this.open(entry), onPick: (entry, place) => this.picks.choose(place, entry), onTrouble: (line) => this.facts.say(line, "error"),
    });
    this.$(".unpick").addEventListener("click", () => this.unpick());
    this.zoom = new Zoom(this.$(".sides"), (scale) => this.zoomed(scale));
    this.pair = new Pair(desk, this.zoom);
    this.match = new Match(desk, { onJump: (frame) => this.player.seek(frame) });
    this.player = new Player(
      Object.fromEntries(SIDES.map((side) => [side, this.$(`.side-${side} .picture`)])),
      {
        playing: !matchMedia("(prefers-reduced-motion: reduce)").matches,
        onSwap: (clip) => this.clipShown(clip),
        onWhole: (clip) => this.clipWhole(clip),
        onTick: (now) => this.ticked(now),
        onDraw: (bitmaps) => this.pair.draw(bitmaps),
      },
    );
    this.player.show(["turbo"]);
    this.export = new Export(desk, { sides: () => this.finished(), player: this.player });
    this.transport = new Transport(desk, this.player, {
      "Ctrl+Enter": () => this.renderFull(),
      "/": () => this.$(".prompt").focus(),
      e: () => this.export.open(),
      m: () => this.models.open(),
      p: () => this.pauseLive(),
      "?": () => this.$(".keys").showModal(),
      Escape: () => this.unpick(),
      r: () => this.panel.reroll(),
      g: () => this.panel.toggleLock(),
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
    });
    this.$(".whole").addEventListener("click", () => this.zoom.reset());
    addEventListener("pagehide", () => { if (this.hello) this.memory.shot = this.panel.state(); });
    this.socket = new Socket(`/rt/ws?page=${this.memory.page}`, {
      onText: (message) => this.handle(message),
      onBytes: (bytes) => this.picture(bytes),
      onState: (state) => state === "lost" && this.lost(),
    });
  }

  // -- asking ---------------------------------------------------------------------------------------------------------

  /** A person wants something else of this shot: they shall see it. */
  edited() {
    if (this.picks.both && !this.paused) this.picks.clear();
    this.ask();
  }

  /** Ask for what the controls say now. A lost connection asks again by itself when it is back. how: instead of making it, say. */
  ask(how = { op: "edit" }) {
    if (!this.hello) return;
    this.readyToAsk();
    if (this.panel.lacking) return;
    if (this.paused && how.op === "edit") {
      this.memory.shot = this.panel.state();
      return;
    }
    const edit = { ...this.panel.wish(), generation: ++this.generation };
    this.asked = { ...edit, at: this.desk.dataset.engine === "ready" ? performance.now() : undefined };  // loading is not typing
    this.edits.set(edit.generation, this.asked);
    this.memory.shot = this.panel.state();
    this.desk.dataset.asked = edit.generation;
    if (this.desk.dataset.engine !== "failed") this.facts.say(this.waits ? WAITS : "");
    this.markStale();
    this.socket.send({ ...how, ...edit });
  }

  /** Whether there is a model, and all that it starts from. */
  readyToAsk() {
    const { lacking } = this.panel;
    this.control.enable(this.desk.dataset.engine === "ready" && !lacking);
    if (this.desk.dataset.engine === "ready") this.$(".side-turbo .blank").textContent = lacking;
  }

  renderFull() {
    if (!this.control.enabled || this.final) return;
    this.picks.drop("b");
    const num_steps = this.panel.fullSteps, { sampler: _, ...shot } = { ...this.panel.wish(), num_steps, negative_prompt: this.panel.negative };
    this.final = { generation: ++this.generation };
    if (!this.socket.send({ op: "final", generation: this.final.generation, ...shot })) {
      return this.finalEnded("The connection is down; try again when it is back.", "error");
    }
    this.facts.say("");
    this.dropFull();
    this.control.queued(num_steps);
    this.layOut();
  }

  /** The live preview stands still, and what was typed meanwhile is made on going on. */
  pauseLive(on = !this.paused) {
    this.paused = on;
    const button = this.$(".pause-live");
    button.setAttribute("aria-pressed", on);
    button.textContent = on ? "Resume live" : "Pause live";
    if (!on) this.ask();
  }

  /** A clip of the history, as it was; a full one beside the turbo clip of its words and seed. */
  open(entry) {
    if (entry.preset && entry.preset !== this.hello.preset) return this.offerSwitch(entry);
    if (entry.mode === "full" && this.final) return this.facts.say("A full render is under way: cancel it first, or wait for it.");
    const { id, mode, num_steps: steps } = entry;
    if (mode === "full") this.picks.drop("b");
    else if (this.picks.both) this.picks.clear();
    if (mode === "turbo") {
      const refused = this.panel.set(controlsOf(entry));
      this.ask({ op: "open", id });
      return this.facts.say(refused);
    }
    const refused = this.panel.set(controlsOf(entry));
    this.ask();
    this.dropFull();
    this.final = { generation: ++this.generation };
    this.control.queued(steps, "Opening");
    if (!this.socket.send({ op: "open", id, generation: this.final.generation })) this.finalEnded("The connection is down.", "error");
    else if (refused) this.facts.say(refused);
    return this.layOut();
  }

  /** A clip of another model: to have it back as it was is to have that model back, which may take minutes; to look at it is not. */
  offerSwitch(entry) {
    this.facts.say(`This clip was made with ${entry.preset}. A or B shows it beside this shot.`);
    this.facts.offer(`Switch to ${entry.preset}`, () => this.switchTo(entry.preset, () => this.open(entry)));
  }

  /** Another model, and then what to do with it instead of asking for what the controls say. */
  async switchTo(name, then) {
    this.afterSwitch = { name, then };
    if (!(await this.models.choose(name))) this.afterSwitch = null;
  }

  /** The finished clips on screen, first and second: what they are called, and as the server described them. */
  finished() {
    return this.sides.map((side) => ({ clip: this.clipOf(side), ...this.label(side) })).filter(({ clip }) => clip && !clip.rough)
      .map(({ name, clip }) => ({ name, header: clip.header }));
  }

  /** A clip of the history, for one place of the pair. Returns: the generation it will come as. */
  askPick({ id }, place) {
    const generation = ++this.generation;
    this.socket?.send({ op: "pick", id, place, generation });
    return generation;
  }

  /** Back to this shot, turbo and full. */
  unpick() {
    if (!this.picks.any) return;
    if (document.activeElement === this.$(".unpick")) this.$(".play").focus();
    this.picks.clear();
  }

  /** A file dropped on the page: its shot, if it is one of ours. */
  async restore(file) {
    try {
      const recipe = await recipeOf(file);
      if (recipe.preset !== this.hello.preset) return this.switchTo(recipe.preset, () => this.take(recipe));
      this.take(recipe);
    } catch (error) {
      this.facts.say(error.message, "error");
    }
  }

  take(recipe) {
    const refused = this.panel.set(controlsOf(recipe));
    this.edited();
    this.facts.say([refused, recipe.mode === "full" ? "The shot of a full render is back; Ctrl + Enter renders it again." : ""].join(" ").trim());
  }

  cancelFull() {
    if (this.final) this.socket.send({ op: "cancel" });
  }

  // -- hearing --------------------------------------------------------------------------------------------------------

  lost() {
    this.facts.lamp("lost", "Connection lost");
  }

  handle(message) {
    const isFinal = message.mode === "full" ? this.final?.generation === message.generation : false;
    switch (message.type) {
      case "hello": return this.welcome(message);
      case "engine": return this.engineIs(message);
      case "live": return this.liveIs(message);
      case "words": return this.panel.showWords(message, () => this.isCurrent(message.generation));
      case "progress": this.noteIsOver();
        return message.mode === "full" ? isFinal && this.control.progress(message) : this.progress(message);
      case "clip": return this.clipComes(message);
      case "same": return this.same(message);
      case "render": return this.renderIs(message);
      case "no render": return this.final && this.finalEnded("The app was started anew, and the full render is lost; start it again.", "error");
      case "kept": return this.history.add(message.entry);
      case "trouble": return this.facts.say(message.message, "error");
      case "cancelled": return this.final?.generation === message.generation && this.finalEnded("Full render cancelled.");
      case "error": if (PICKED.includes(message.mode)) return this.pickFailed(message);
        return message.mode === "full" ? isFinal && this.finalEnded(message.message, "error") : this.failed(message);
      default: return undefined;      // "queued", "dropped": nothing to show for them
    }
  }

  welcome(hello) {
    const first = !this.hello, another = !first && hello.preset !== this.hello.preset;
    this.hello = hello;
    this.models.show(hello.preset);
    if (another) this.leaveModel();
    if (first || another) this.panel.fill(hello);
    this.desk.dataset.takesImage = hello.takes_image;
    if (first && !this.panel.touched) this.panel.set(this.memory.shot ?? hello.opening);
    const { name, then } = this.afterSwitch ?? {};
    this.afterSwitch = null;
    if (!another) {
      this.history.load();
      this.picks.askAgain();
    }
    if (name === hello.preset) then();
    else this.ask();
  }

  /** Another model runs from now on: what the one before was asked for will not come. */
  leaveModel() {
    this.edits.clear();
    this.incoming.clear();
    this.asked = null;
    this.parting = this.final ? "Another model was chosen, and the full render was stopped." : "";
    if (this.final) this.finalEnded(this.parting);
    this.dropFull();
    this.layOut();
  }

  pickFailed({ mode: place, generation, message }) {
    if (!this.picks.wants(place, generation)) return;
    this.picks.drop(place);
    this.facts.say(message, "error");
  }

  /** After a reload or a lost connection: the full render this page asked for is under way, or done. */
  renderIs({ generation, num_steps: steps }) {
    this.final = { generation };
    this.generation = Math.max(this.generation, generation);
    this.control.queued(steps, "The full render goes on");
    this.layOut();
  }

  engineIs({ state, message, about }) {
    this.desk.dataset.engine = state;
    this.about = about;
    this.readyToAsk();
    this.$(".pause-live").hidden = state !== "ready";
    this.showLamp();
    if (state === "ready") {
      if (message || this.note) this.facts.say(message || this.parting);        // a network that is read when it is first needed
      this.note = message;
      this.parting = "";
      return this.facts.running(about);
    }
    this.$(".side-turbo .blank").textContent = message;
    this.note = state === "loading" ? message : "";
    this.facts.say(this.shown || state === "failed" ? message : "", state === "failed" ? "error" : "note");
    const { previous } = this.hello ?? {};
    if (state === "failed" && previous && previous !== this.hello.preset) this.facts.offer(`Back to ${previous}`, () => this.switchTo(previous, () => this.ask()));
  }

  showLamp() {
    const { engine } = this.desk.dataset, state = engine === "ready" && this.waits ? "paused" : engine;
    this.facts.lamp(state, { ready: "Live", paused: "Live paused", failed: "No model" }[state] ?? `Loading ${this.hello?.preset ?? "the model"}`);
  }

  /** What was read has been read: the work goes on. */
  noteIsOver() {
    if (this.note) this.facts.say(this.waits ? WAITS : "");
    this.note = "";
  }

  /** paused: previews wait for a full render, since both models do not fit into memory together. */
  liveIs({ paused }) {
    if (paused === Boolean(this.waits)) return;
    this.waits = paused;
    this.showLamp();
    this.facts.say(paused ? WAITS : "");
  }

  /** The newest edit means what an older one meant: its clip counts for both. */
  same({ generation, as }) {
    const edit = this.edits.get(generation);
    if (edit) edit.same = as;
    this.markStale();
  }

  progress({ stage, step, num_steps: steps, expert }) {
    if (expert && this.sides.includes("turbo")) this.$(".side-turbo .side-facts").textContent = `step ${step} of ${steps} · ${expert}`;
    this.thread(stage === "text" ? 0.05 : stage === "decode" ? 0.85 : 0.05 + (0.8 * step) / steps);
  }

  failed({ generation, message }) {
    if (generation && !this.isCurrent(generation)) return;
    this.facts.say(message, "error");
    this.thread(0);
  }

  clipComes(header) {
    const side = sideOf(header.kind);
    if (side === "full" && this.final?.generation !== header.generation) return;
    if (PICKED.includes(side) && !this.picks.wants(side, header.generation)) return;
    for (const key of this.incoming.keys()) if (key.startsWith(`${side}/`)) this.incoming.delete(key);
    const clip = new Clip(header);
    this.incoming.set(`${side}/${header.generation}/${header.kind}`, clip);
    this.player.offer(clip);
    if (side === "full" && !clip.rough) {
      clip.kept = true;
      this.full = clip;
      this.finalEnded("");
    }
  }

  picture(bytes) {
    const { generation, kind, index, jpeg } = parseFrame(bytes);
    this.incoming.get(`${sideOf(kind)}/${generation}/${kind}`)?.add(index, jpeg);
  }

  // -- the picture ----------------------------------------------------------------------------------------------------

  clipShown(clip) {
    const side = this.$(`.side-${clip.side}`);
    side.dataset.empty = "false";
    side.dataset.rough = clip.rough;
    if (clip.side === "turbo") {
      this.shown = clip;
      this.desk.dataset.shown = clip.generation;
      this.desk.dataset.shownPrompt = clip.header.prompt;
      this.desk.dataset.rough = clip.rough;
      const edit = this.edits.get(clip.generation);
      if (edit?.at !== undefined) edit.firstMs ??= performance.now() - edit.at;
      this.markStale();
    }
    this.picks.shown(clip);
    this.layOut();
  }

  clipWhole(clip) {
    this.measure();
    if (clip.side !== "turbo" || clip.rough) return;
    const edit = this.edits.get(clip.generation);
    for (const generation of this.edits.keys()) if (generation < clip.generation) this.edits.delete(generation);
    if (edit?.firstMs !== undefined) {
      edit.wholeMs = performance.now() - edit.at;
      this.desk.dataset.firstMs = Math.round(edit.firstMs);
      this.desk.dataset.wholeMs = Math.round(edit.wholeMs);
    }
    this.facts.times(clip.header, edit);
    this.facts.running(this.about, clip.header.recipe.sampler);
    this.markStale();
  }

  /** What stands under a side's picture. */
  caption(name) {
    const side = this.$(`.side-${name}`), facts = side.querySelector(".side-facts"), save = side.querySelector(".save"), clip = this.clipOf(name) ?? this.player.current(name);
    const label = this.label(name), { rough, header } = clip ?? { rough: true };
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

  /** Whether a generation is the one asked for last, or means the same as it. */
  isCurrent(generation) {
    return this.asked?.generation === generation || this.asked?.same === generation;
  }

  /** stale: the picture is not yet what was asked for; settled: it is, to the last frame. */
  markStale() {
    const stale = !this.shown || this.shown.rough || !this.isCurrent(this.shown.generation);
    this.desk.dataset.stale = stale;
    this.desk.dataset.settled = !stale && this.shown.complete;
    if (!stale) this.thread(1);
    else if (!this.shown?.rough || !this.isCurrent(this.shown.generation)) this.thread(0);
  }

  thread(share) {
    this.$(".side-turbo .thread i").style.transform = `scaleX(${share})`;
  }

  ticked(now) {
    const { index, playing, past } = now;
    this.transport.show(now);
    this.match.at(index);
    this.pair.past(past);
    for (const side of SIDES) this.$(`.side-${side}`).dataset.past = past.includes(side);
    this.desk.dataset.index = index;
    if (this.shown && (index === 0 || !playing)) {          // the room takes a little of the picture's light, once a loop: it repaints the page
      const canvas = this.$(".ambient-canvas");
      canvas.getContext("2d").drawImage(this.$(`.side-${this.sides[0]} .picture`), 0, 0, canvas.width, canvas.height);
    }
  }

  // -- the full render ------------------------------------------------------------------------------------------------

  finalEnded(message, tone) {
    this.final = null;
    if (!this.full) this.dropFull();
    this.control.idle();
    this.facts.say(message, tone);
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

  /** One large picture, or two: what was picked; a full render under way, or one of the very words and seed of the turbo clip. */
  layOut() {
    const sides = this.sides, two = sides.length > 1, clips = sides.map((side) => this.clipOf(side));
    for (const side of SIDES) {
      const figure = this.$(`.side-${side}`), place = sides.indexOf(side);
      figure.hidden = place < 0;
      figure.dataset.place = place;
      if (place >= 0) this.caption(side);
    }
    this.desk.dataset.two = two;
    this.shape(sides);
    this.player.show(sides);
    this.pair.enable(two && clips.every(Boolean) ? sides.map((side) => ({ side, ...this.label(side) })) : null);
    this.$(".unpick").hidden = !this.picks.any;
    this.desk.dataset.picked = sides.some((side) => PICKED.includes(side));
    this.measure();
    this.offerReturn(two ? null : this.full?.header);
    this.history.mark(clips.filter((clip) => clip?.header.recipe).map(({ header }) => ({ ...header.recipe, prompt: header.prompt })), this.picks.entries);
  }

  /** The frames take the shape of what they show. */
  shape(sides) {
    const [a, b] = sides.map((side) => this.player.current(side)?.header).filter(Boolean);
    if (!a) return;
    const { width, height } = boxOf(a, b ?? a);
    this.desk.style.setProperty("--aspect", width / height);
    this.pair.aspect = width / height;
  }

  /** Which sides are on screen, first and second. */
  get sides() {
    const shown = this.shown?.header, full = this.full?.header;
    const fits = Boolean(shown && full) && SHOT.every((name) => full[name] === shown[name]);
    return sidesOf({ a: this.picks.clip("a"), b: this.picks.clip("b"), full: Boolean(this.final) || fits });
  }

  /** The clip of a side, where there is one to look at and compare. */
  clipOf(side) {
    if (side === "full") return this.player.current("full") === this.full ? this.full : null;
    return side === "turbo" ? this.shown : this.picks.clip(side);
  }

  /** What a side is called and says of itself; with clips of two shots that is more. */
  label(side) {
    const sides = this.sides, picked = sides.some((name) => PICKED.includes(name)), mode = this.clipOf(side)?.header.mode ?? side;
    return { mode, ...labelOf({ ...this.clipOf(side)?.header, mode }, picked ? "AB"[sides.indexOf(side)] : "") };
  }

  /** A or B of the pair is another clip, or none. */
  picked() {
    this.memory.picks = this.picks.entries;
    for (const place of PICKED) if (!this.picks.entries[place]) this.player.clear(place);
    this.layOut();
  }

  /** Numbers for the pair on screen, once both clips are whole: until then the cores have clips to decode. */
  measure() {
    const clips = this.sides.map((side) => this.clipOf(side));
    if (clips.length > 1 && clips.every((clip) => clip && !clip.rough && clip.complete)) {
      this.match.measure(...clips.map(({ header }) => header.id), this.player.timed);
    } else {
      this.match.clear();
    }
  }

  zoomed(scale) {
    const whole = this.$(".whole");
    whole.hidden = scale === 1;
    whole.textContent = `${scale.toFixed(1)}×`;
  }

  offerReturn(full) {
    const line = this.$(".message");
    line.querySelector(".return")?.remove();
    if (!full) return;
    const words = full.prompt.length > 40 ? `${full.prompt.slice(0, 39)}…` : full.prompt;
    const back = element("button", { type: "button", className: "return link" }, `Back to the shot rendered in full: “${words}”`);
    back.addEventListener("click", () => {
      this.panel.set(controlsOf({ ...full, mode: "full", num_steps: full.recipe.num_steps }));
      this.ask();
    });
    line.append(back);
  }
}
