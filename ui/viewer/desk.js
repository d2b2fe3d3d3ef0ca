// The desk: asks for clips, hears what becomes of them, and puts them on the stage. The parts around it know nothing of each other.

import { Asked } from "./asked.js";
import { element } from "./dom.js";
import { Drop } from "./drop.js";
import { EngineState } from "./engine.js";
import { Export, recipeOf } from "./export.js";
import { Facts } from "./facts.js";
import { FullRender } from "./final.js";
import { History } from "./history.js";
import { Memory } from "./memory.js";
import { Models } from "./models.js";
import { Order } from "./order.js";
import { Panel } from "./panel.js";
import { controlsOf } from "./shots.js";
import { Socket } from "./socket.js";
import { PICKED, Stage } from "./stage.js";
import { isRough, sideOf } from "./wire.js";

export function mount(root) {
  return new Desk(root.querySelector(".desk"));
}

class Desk {
  constructor(desk) {
    this.desk = desk;
    this.$ = (selector) => desk.querySelector(selector);
    this.asked = new Asked();
    this.order = new Order();
    this.memory = new Memory();
    this.paused = false;

    const onTrouble = (line) => this.facts.say(line, "error");
    this.facts = new Facts(desk);
    this.engine = new EngineState(desk, this.facts, { onBack: (preset) => this.switchTo(preset) });
    this.panel = new Panel(desk, { onEdit: () => this.edited(), onTrouble });
    this.render = new FullRender(desk, { onStart: () => this.renderFull(), onCancel: () => this.cancelFull() });
    this.models = new Models(desk, { onChoose: (name) => this.switchTo(name), onTrouble });
    this.drop = new Drop(desk, (file) => (this.panel.first.fits(file) ? this.panel.first.take(file) : this.restore(file)));
    this.history = new History(desk, {
      onOpen: (entry) => this.open(entry), onPick: (entry, place) => this.stage.picks.choose(place, entry), onTrouble,
    });
    this.stage = new Stage(desk, {
      picks: this.memory.picks,
      keys: this.keys(),
      askPick: (...pick) => this.askPick(...pick),
      onShown: (clip) => this.clipShown(clip),
      onWhole: (clip) => this.clipWhole(clip),
      onLaidOut: () => this.laidOut(),
    });
    this.export = new Export(desk, { sides: () => this.stage.finished(), player: this.stage.player });
    this.$(".export-open").addEventListener("click", () => this.export.open());
    this.$(".pause-live").addEventListener("click", () => this.pauseLive());
    this.$(".keys-open").addEventListener("click", () => this.$(".keys").showModal());
    this.$(".keys-close").addEventListener("click", () => this.$(".keys").close());
    addEventListener("pagehide", () => { if (this.hello) this.memory.shot = this.panel.state(); });
    this.socket = new Socket(`/rt/ws?page=${this.memory.page}`, {
      onText: (message) => this.handle(message),
      onBytes: (bytes) => this.stage.picture(bytes),
      onState: (state) => state === "lost" && this.engine.lost(),
    });
  }

  keys() {
    return {
      "Ctrl+Enter": () => this.renderFull(),
      "/": () => this.$(".prompt").focus(),
      "?": () => this.$(".keys").showModal(),
      e: () => this.export.open(),
      m: () => this.models.open(),
      p: () => this.pauseLive(),
      r: () => this.panel.reroll(),
      g: () => this.panel.toggleLock(),
    };
  }

  // -- asking ---------------------------------------------------------------------------------------------------------

  /** A person wants something else of this shot: they shall see it. */
  edited() {
    if (this.stage.picks.both && !this.paused) this.stage.picks.clear();
    this.ask();
  }

  /** Ask for what the controls say now. A lost connection asks again by itself when it is back. how: instead of making it, say. */
  ask(how = { op: "edit" }) {
    if (!this.hello) return;
    this.readyToAsk();
    if (this.panel.lacking) return;
    this.memory.shot = this.panel.state();
    if (this.paused && how.op === "edit") return;
    const generation = this.asked.edit(this.engine.ready ? performance.now() : undefined);       // loading is not typing
    this.desk.dataset.asked = generation;
    this.engine.quiet();
    this.markStale();
    this.socket.send({ ...how, ...this.panel.wish(), generation });
  }

  /** Whether there is a model, and all that it starts from. */
  readyToAsk() {
    const { lacking } = this.panel;
    this.render.enable(this.engine.ready && !lacking);
    if (this.engine.ready) this.$(".side-turbo .blank").textContent = lacking;
  }

  renderFull() {
    if (!this.render.enabled || this.render.underWay) return;
    this.stage.picks.drop("b");
    const num_steps = this.panel.fullSteps, { sampler: _, ...shot } = this.panel.wish();
    if (!this.beginFull({ op: "final", ...shot, num_steps, negative_prompt: this.panel.negative })) return;
    this.facts.say("");
  }

  /** wish: what to send. text: what is said while it waits. Returns: whether it is under way. */
  beginFull(wish, text) {
    const generation = this.asked.next();
    if (!this.socket.send({ ...wish, generation })) {
      this.finalEnded("The connection is down; try again when it is back.", "error");
      return false;
    }
    this.stage.dropFull();
    this.render.begin(generation, wish.num_steps, text);
    this.stage.rendering = true;
    return true;
  }

  cancelFull() {
    if (this.render.underWay) this.socket.send({ op: "cancel" });
  }

  /** The live preview stands still, and what was typed meanwhile is made on going on. */
  pauseLive(on = !this.paused) {
    this.paused = on;
    const button = this.$(".pause-live");
    button.setAttribute("aria-pressed", on);
    button.textContent = on ? "Resume live" : "Pause live";
    if (!on) this.ask();
  }

  /** A clip of the history, for one place of the pair. Returns: the generation it will come as. */
  askPick({ id }, place) {
    const generation = this.asked.next();
    this.socket?.send({ op: "pick", id, place, generation });
    return generation;
  }

  // -- having a shot back ---------------------------------------------------------------------------------------------

  /** A clip of the history, as it was; a full one beside the turbo clip of its shot. */
  open(entry) {
    const { id, mode, num_steps, preset } = entry, { picks } = this.stage;
    if (preset && preset !== this.hello.preset) return this.offerSwitch(entry);
    if (mode === "full" && this.render.underWay) return this.facts.say("A full render is under way: cancel it first, or wait for it.");
    if (mode === "full") picks.drop("b");
    else if (picks.both) picks.clear();
    const refused = this.panel.set(controlsOf(entry));
    this.ask(mode === "turbo" ? { op: "open", id } : undefined);
    if (mode === "full" && !this.beginFull({ op: "open", id, num_steps }, "Opening")) return undefined;
    return refused && this.facts.say(refused);
  }

  /** A clip of another model: to have it back as it was is to have that model back, which may take minutes; to look at it is not. */
  offerSwitch(entry) {
    this.facts.say(`This clip was made with ${entry.preset}. A or B shows it beside this shot.`);
    this.facts.offer(`Switch to ${entry.preset}`, () => this.switchTo(entry.preset, () => this.open(entry)));
  }

  /** Another model, and then what to do with it; nothing else said, ask for what the controls say. */
  async switchTo(name, then = () => this.ask()) {
    this.afterSwitch = { name, then };
    if (!(await this.models.choose(name))) this.afterSwitch = null;
  }

  /** A file dropped on the page: its shot, if it is one of ours. */
  async restore(file) {
    try {
      const recipe = await recipeOf(file);
      if (recipe.preset !== this.hello.preset) return this.switchTo(recipe.preset, () => this.take(recipe));
      return this.take(recipe);
    } catch (error) {
      return this.facts.say(error.message, "error");
    }
  }

  take(recipe) {
    const refused = this.panel.set(controlsOf(recipe));
    this.edited();
    this.facts.say([refused, recipe.mode === "full" ? "The shot of a full render is back; Ctrl + Enter renders it again." : ""].join(" ").trim());
  }

  offerReturn(full) {
    const line = this.$(".message");
    line.querySelector(".return")?.remove();
    if (!full) return;
    const words = full.prompt.length > 40 ? `${full.prompt.slice(0, 39)}…` : full.prompt;
    const back = element("button", { type: "button", className: "return link" }, `Back to the shot rendered in full: “${words}”`);
    back.addEventListener("click", () => {
      this.panel.set(controlsOf({ ...full, num_steps: full.recipe.num_steps }));
      this.ask();
    });
    line.append(back);
  }

  // -- hearing --------------------------------------------------------------------------------------------------------

  handle(message) {
    const { type, mode, generation } = message, isFinal = this.render.generation === generation;
    switch (type) {
      case "hello": return this.welcome(message);
      case "engine": return this.engineIs(message);
      case "live": return this.engine.live(message);
      case "words": return this.panel.showWords(message, () => this.asked.isCurrent(generation));
      case "progress": this.engine.moves();
        return mode === "full" ? isFinal && this.render.progress(message) : this.progress(message);
      case "clip": return this.clipComes(message);
      case "same": this.asked.same(generation, message.as);
        return this.markStale();
      case "render": return this.renderIs(message);
      case "no render": return this.render.underWay && this.finalEnded("The app was started anew, and the full render is lost; start it again.", "error");
      case "kept": return this.history.add(message.entry);
      case "trouble": return this.facts.say(message.message, "error");
      case "cancelled": return isFinal && this.finalEnded("Full render cancelled.");
      case "error": if (PICKED.includes(mode)) return this.pickFailed(message);
        return mode === "full" ? isFinal && this.finalEnded(message.message, "error") : this.failed(message);
      default: return undefined;      // "queued", "dropped": nothing to show for them
    }
  }

  welcome(hello) {
    const first = !this.hello, another = !first && hello.preset !== this.hello.preset, { name, then } = this.afterSwitch ?? {};
    this.hello = hello;
    this.engine.expect(hello);
    this.models.show(hello.preset);
    this.desk.dataset.takesImage = hello.takes_image;
    if (another) this.leaveModel();
    if (first || another) this.panel.fill(hello);
    if (first && !this.panel.touched) this.panel.set(this.memory.shot ?? hello.opening);
    this.desk.dataset.guest = hello.guest;
    if (!another && !hello.guest) {
      this.history.load();
      this.stage.picks.askAgain();
    }
    if (name !== hello.preset) return this.ask();      // of the model before, where the connection was lost meanwhile
    this.afterSwitch = null;
    return then();
  }

  /** Another model runs from now on: what the one before was asked for will not come. */
  leaveModel() {
    this.asked.forget();
    this.stage.forgetIncoming();
    this.stage.dropFull();
    const line = this.render.underWay ? "Another model was chosen, and the full render was stopped." : "";
    this.engine.partWith(line);
    if (line) this.finalEnded(line);
    else this.stage.layOut();
  }

  engineIs(message) {
    this.engine.turned(message, Boolean(this.stage.shown));
    this.$(".pause-live").hidden = !this.engine.ready;
    this.readyToAsk();
  }

  /** After a reload or a lost connection: the full render this page asked for is under way, or done. */
  renderIs({ generation, num_steps: steps }) {
    this.asked.after(generation);
    this.render.begin(generation, steps, "The full render goes on");
    this.stage.rendering = true;
  }

  progress({ stage, step, num_steps: steps, expert }) {
    if (expert) this.stage.tell(`step ${step} of ${steps} · ${expert}`);
    this.stage.thread(stage === "text" ? 0.05 : stage === "decode" ? 0.85 : 0.05 + (0.8 * step) / steps);
  }

  failed({ generation, message }) {
    if (generation && !this.asked.isCurrent(generation)) return;
    this.facts.say(message, "error");
    this.stage.thread(0);
  }

  pickFailed({ mode: place, generation, message }) {
    if (!this.stage.picks.wants(place, generation)) return;
    this.stage.picks.drop(place);
    this.facts.say(message, "error");
  }

  finalEnded(message, tone) {
    this.render.end();
    this.facts.say(message, tone);
    this.stage.rendering = false;
  }

  clipComes(header) {
    const side = sideOf(header.kind);
    if (side === "full" && this.render.generation !== header.generation) return;
    if (PICKED.includes(side) && !this.stage.picks.wants(side, header.generation)) return;
    if (!this.order.admits(side, header.generation, isRough(header.kind))) return;
    const clip = this.stage.offer(header);
    if (side === "full" && !clip.rough) this.finalEnded("");
  }

  // -- what the stage shows -------------------------------------------------------------------------------------------

  clipShown(clip) {
    if (clip.side !== "turbo") return;
    this.asked.pictured(clip.generation);
    this.markStale();
  }

  clipWhole(clip) {
    if (clip.side !== "turbo" || clip.rough) return;
    const took = this.asked.whole(clip.generation);
    if (took) Object.assign(this.desk.dataset, { firstMs: Math.round(took.firstMs), wholeMs: Math.round(took.wholeMs) });
    this.facts.times(clip.header, took);
    this.facts.running(this.engine.about, clip.header.recipe.sampler);
    this.markStale();
  }

  /** stale: the picture is not yet what was asked for; settled: it is, to the last frame. */
  markStale() {
    const { shown } = this.stage, current = Boolean(shown) && this.asked.isCurrent(shown.generation), stale = !current || shown.rough;
    this.desk.dataset.stale = stale;
    this.desk.dataset.settled = !stale && shown.complete;
    if (!stale) this.stage.thread(1);
    else if (!current) this.stage.thread(0);
  }

  laidOut() {
    const { stage } = this, clips = stage.finished();
    this.memory.picks = stage.picks.entries;
    this.offerReturn(stage.sides.length > 1 ? null : stage.full?.header);
    this.history.mark(clips.map(({ header }) => ({ ...header.recipe, prompt: header.prompt })), stage.picks.entries);
  }
}
