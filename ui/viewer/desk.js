// The desk: binds the page's controls to the socket and the player. All text goes in through textContent or value, never as HTML.

import { Clip } from "./clip.js";
import { put, replaceWord } from "./phrases.js";
import { Player } from "./player.js";
import { Socket } from "./socket.js";
import { parseFrame, sideOf } from "./wire.js";

const STAGES = [["text", "text"], ["denoise", "DiT"], ["decode", "decode"], ["encode", "encode"]];
const FULL_STEPS = [50, 30, 20, 10];
const SEEDS = 1_000_000;
const WORDS_PAUSE_MS = 500;

export function mount(root) {
  return new Desk(root.querySelector(".desk"));
}

class Desk {
  constructor(desk) {
    this.desk = desk;
    this.$ = (selector) => desk.querySelector(selector);
    this.generation = 0;
    this.asked = null;              // the newest live edit sent: { generation, prompt, seed, at }
    this.edits = new Map();         // generation -> that, while it may still come to the screen
    this.incoming = new Map();      // "side/generation" -> the clip whose frames are arriving
    this.final = null;              // the full render under way: { generation }
    this.full = null;               // the last full clip; shown beside the turbo clip of the same words and seed
    this.touched = false;

    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.player = new Player(
      { turbo: this.$(".side-turbo .picture"), full: this.$(".side-full .picture") },
      {
        playing: !calm,
        onSwap: (clip) => this.clipShown(clip),
        onWhole: (clip) => this.clipWhole(clip),
        onTick: (index, total, playing) => this.ticked(index, total, playing),
      },
    );
    this.bindControls();
    this.bindKeys();
    this.socket = new Socket("/rt/ws", {
      onText: (message) => this.handle(message),
      onBytes: (bytes) => this.picture(bytes),
      onState: (state) => this.connection(state),
    });
  }

  // -- asking ---------------------------------------------------------------------------------------------------------

  /** Send what the controls say now. at: when the person acted, for the times at the foot of the page. */
  ask(at = performance.now()) {
    const loading = this.desk.dataset.engine !== "ready";       // the wait for the model is not the edit's
    const edit = { ...this.wish(), generation: ++this.generation, at: loading ? undefined : at };
    this.asked = edit;
    this.edits.set(edit.generation, edit);
    this.desk.dataset.asked = edit.generation;
    this.say("");
    this.markStale();
    this.sendEdit(edit);
  }

  sendEdit({ at, ...edit }) {
    this.socket.send({ op: "edit", ...edit });
  }

  wish() {
    return {
      prompt: this.$(".prompt").value,
      seed: this.seed(),
      num_steps: Number(this.$(".steps input:checked")?.value ?? this.hello?.turbo.num_steps),
      sampler: this.$(".sampler").value,
    };
  }

  seed() {
    const seed = Math.floor(Number(this.$(".seed").value));
    return Number.isFinite(seed) ? Math.min(Math.max(seed, 0), 4294967295) : 0;
  }

  edited() {
    this.touched = true;
    if (this.$(".lock").getAttribute("aria-pressed") !== "true") this.$(".seed").value = anySeed();
    this.ask();
  }

  setPrompt(text) {
    this.$(".prompt").value = text;
    this.edited();
  }

  renderFull() {
    if (this.$(".final-button").disabled || this.final) return;
    const { prompt, seed } = this.wish();
    this.final = { generation: ++this.generation };
    const sent = this.socket.send({
      op: "final", generation: this.final.generation, prompt, seed, num_steps: Number(this.$(".full-steps").value),
    });
    if (!sent) return this.finalEnded("The connection is down; try again when it is back.");
    this.say("");
    this.dropFull();
    this.finalProgress({ stage: "queued", step: 0, num_steps: Number(this.$(".full-steps").value) });
    this.layOut();
  }

  cancelFull() {
    if (this.final) this.socket.send({ op: "cancel" });
  }

  // -- hearing --------------------------------------------------------------------------------------------------------

  connection(state) {
    if (state === "lost") {
      this.lamp("lost", "Connection lost");
      if (this.final) this.finalEnded("The connection was lost, and the full render with it.");
    }
  }

  handle(message) {
    const { type } = message;
    if (type === "hello") this.welcome(message);
    else if (type === "engine") this.engineIs(message);
    else if (type === "words") this.showWords(message);
    else if (type === "progress") this.progress(message);
    else if (type === "clip") this.clipComes(message);
    else if (type === "same") this.same(message);
    else if (type === "paused") this.say(`Live preview waits for the full render${message.own ? "; Cancel brings your last edit now." : " of another page."}`);
    else if (type === "cancelled" && this.isFinal(message)) this.finalEnded("Full render cancelled.");
    else if (type === "error") this.failed(message);
  }

  welcome(hello) {
    const first = !this.hello;
    this.hello = hello;
    if (first) {
      this.fillControls(hello);
      if (matchMedia("(hover: hover)").matches) this.$(".prompt").focus({ preventScroll: true });
    }
    if (!this.touched && !this.$(".prompt").value) {
      this.$(".prompt").value = hello.opening.prompt;
      this.$(".seed").value = hello.opening.seed;
    }
    this.ask();
  }

  engineIs({ state, message, about }) {
    this.desk.dataset.engine = state;
    this.$(".final-button").disabled = state !== "ready";
    if (state === "ready") {
      this.lamp("ready", "Live");
      this.showRunning(about);
    } else {
      this.lamp(state, state === "failed" ? "No model" : "Loading the model");
      this.$(".side-turbo .blank").textContent = message;
      if (state === "failed") this.say(message, "error");
    }
  }

  same({ generation, as }) {
    const meant = this.edits.get(as);
    const edit = this.edits.get(generation);
    if (!edit) return;
    edit.same = as;
    if (meant && !meant.whole) return this.markStale();
    this.settle();
  }

  progress({ generation, mode, stage, step, num_steps, eta_s }) {
    if (mode === "full") {
      if (this.final?.generation === generation) this.finalProgress({ stage, step, num_steps, eta_s });
      return;
    }
    const share = stage === "text" ? 0.05 : stage === "decode" ? 0.85 : 0.05 + (0.8 * step) / num_steps;
    this.$(".side-turbo .thread i").style.transform = `scaleX(${share})`;
  }

  clipComes(header) {
    const side = sideOf(header.kind);
    if (side === "full" && this.final?.generation !== header.generation) return;
    for (const key of this.incoming.keys()) if (key.startsWith(side)) this.incoming.delete(key);
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

  failed({ generation, mode, message }) {
    if (mode === "full") {
      if (this.final?.generation === generation) this.finalEnded(message, "error");
      return;
    }
    if (this.current(generation)) {
      this.say(message, "error");
      this.$(".side-turbo .thread i").style.transform = "scaleX(0)";
    }
  }

  // -- the picture ----------------------------------------------------------------------------------------------------

  clipShown(clip) {
    const { header } = clip;
    const side = this.$(`.side-${clip.side}`);
    side.dataset.empty = "false";
    side.dataset.rough = clip.rough;
    if (clip.side === "turbo") {
      this.shown = clip;
      this.desk.dataset.shown = clip.generation;
      this.desk.dataset.shownPrompt = header.prompt;
      this.desk.dataset.rough = clip.rough;
      this.pictureTimes(clip);
      this.markStale();
    }
    this.sideFacts(side, clip);
    this.layOut();
  }

  clipWhole(clip) {
    if (clip.side !== "turbo" || clip.rough) return;
    const edit = this.edits.get(clip.generation);
    if (edit) {
      edit.whole = true;
      edit.wholeMs = performance.now() - edit.at;
    }
    for (const generation of this.edits.keys()) if (generation < clip.generation) this.edits.delete(generation);
    this.settle();
    this.showTimes(clip.header);
  }

  pictureTimes(clip) {
    const edit = this.edits.get(clip.generation);
    if (edit?.at !== undefined && edit.firstMs === undefined) edit.firstMs = performance.now() - edit.at;
  }

  sideFacts(side, clip) {
    const { header } = clip;
    const facts = side.querySelector(".side-facts");
    const save = side.querySelector(".save");
    if (clip.rough) {
      facts.textContent = `step ${header.step} of ${header.num_steps}`;
      save.hidden = true;
      return;
    }
    const { num_steps: steps, sampler } = header.recipe;
    facts.textContent = `${steps} ${steps === 1 ? "step" : "steps"} · ${seconds(header.stage_s.total)}`;
    facts.title = `${sampler}, seed ${header.seed}`;
    save.hidden = false;
    save.href = `/rt/clip/${header.id}.mp4`;
    save.setAttribute("aria-label", `Save the ${clip.side} clip as MP4`);
  }

  /** Whether a generation is the one asked for last, or the same words as it. */
  current(generation) {
    return this.asked && (this.asked.generation === generation || this.asked.same === generation);
  }

  markStale() {
    const stale = !this.shown || !this.current(this.shown.generation) || this.shown.rough;
    this.desk.dataset.stale = stale;
    this.desk.dataset.settled = !stale && this.shown.complete;
    if (stale && !this.shown?.rough) this.$(".side-turbo .thread i").style.transform = "scaleX(0)";
  }

  settle() {
    this.markStale();
    if (this.desk.dataset.settled === "true") this.$(".side-turbo .thread i").style.transform = "scaleX(1)";
  }

  /** One large picture, or two: a full render under way, or one of the very words and seed of the turbo clip. */
  layOut() {
    const shown = this.shown?.header;
    const fits = this.full && shown && this.full.header.prompt === shown.prompt && this.full.header.seed === shown.seed;
    if (fits && this.player.current("full") !== this.full && !this.final) this.player.offer(this.full);
    const two = Boolean(this.final || fits);
    this.$(".side-full").hidden = !two;
    this.desk.dataset.two = two;
    this.offerReturn(!two && this.full);
  }

  offerReturn(full) {
    const message = this.$(".message");
    if (!full) return message.querySelector(".return")?.remove();
    if (message.querySelector(".return")) return;
    const back = element("button", { type: "button", className: "return link" }, `Back to the shot rendered in full: “${short(full.header.prompt)}”`);
    back.addEventListener("click", () => {
      this.$(".prompt").value = full.header.prompt;
      this.$(".seed").value = full.header.seed;
      this.touched = true;
      this.ask();
    });
    message.append(back);
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

  ticked(index, total, playing) {
    const scrub = this.$(".scrub");
    scrub.max = total - 1;
    scrub.value = index;
    scrub.style.setProperty("--at", total > 1 ? index / (total - 1) : 0);
    scrub.setAttribute("aria-valuetext", `frame ${index + 1} of ${total}`);
    this.$(".count").textContent = `${index + 1} / ${total}`;
    const play = this.$(".play");
    play.dataset.playing = playing;
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
    this.desk.dataset.index = index;
    if (index % 4 === 0 || !playing) this.glow();
  }

  /** The room takes a little of the picture's light. */
  glow() {
    const canvas = this.$(".ambient-canvas");
    if (this.shown) canvas.getContext("2d").drawImage(this.$(".side-turbo .picture"), 0, 0, canvas.width, canvas.height);
  }

  // -- the full render ------------------------------------------------------------------------------------------------

  isFinal({ generation }) {
    return this.final?.generation === generation;
  }

  finalProgress({ stage, step, num_steps, eta_s }) {
    this.$(".final-button").hidden = true;
    this.$(".final-progress").hidden = false;
    const bar = this.$(".final-bar");
    const done = stage === "denoise" ? step : stage === "decode" ? num_steps : 0;
    if (stage === "denoise" || stage === "queued") this.finalSteps = num_steps;
    const share = stage === "decode" ? 1 : done / this.finalSteps;
    bar.setAttribute("aria-valuemax", this.finalSteps);
    bar.setAttribute("aria-valuenow", Math.round(share * this.finalSteps));
    for (const i of [bar.firstElementChild, this.$(".side-full .thread i")]) i.style.transform = `scaleX(${share})`;
    const left = eta_s === null || eta_s === undefined ? "" : ` · about ${eta_s < 9.5 ? Math.max(1, Math.round(eta_s)) : Math.round(eta_s)} s left`;
    this.$(".final-text").textContent = stage === "queued" ? "Waiting for the preview to finish"
      : stage === "text" ? "Reading the prompt" : stage === "decode" ? "Decoding" : `Step ${step} of ${num_steps}${left}`;
  }

  finalEnded(message, tone) {
    this.final = null;
    if (!this.full) this.dropFull();
    this.$(".final-button").hidden = false;
    this.$(".final-progress").hidden = true;
    this.say(message, tone);
    this.layOut();
  }

  // -- words, facts, times --------------------------------------------------------------------------------------------

  say(text, tone = "note") {
    const line = this.$(".message");
    line.textContent = text;
    line.dataset.tone = tone;
  }

  lamp(state, text) {
    this.$(".lamp").dataset.state = state;
    this.$(".lamp-text").textContent = text;
  }

  /** Half a word is always unknown: what to say about the words waits for a pause in the typing. */
  showWords(report) {
    clearTimeout(this.wordsTimer);
    const calm = !report.unknown.length && !report.truncated;
    this.wordsTimer = setTimeout(() => this.current(report.generation) && this.fillWords(report), calm ? 0 : WORDS_PAUSE_MS);
  }

  fillWords({ unknown, suggestions, truncated, notes }) {
    const box = this.$(".words");
    box.replaceChildren();
    if (unknown.length) {
      const line = element("p", {}, `${this.hello.preset} was not taught ${unknown.map((word) => `“${word}”`).join(", ")}.`);
      box.append(line);
    }
    for (const [word, nearest] of suggestions) {
      const line = element("p", { className: "nearest" }, unknown.length > 1 ? `Instead of “${word}”: ` : "Nearest it knows: ");
      for (const known of nearest) {
        const button = element("button", { type: "button", className: "chip" }, known);
        button.addEventListener("click", () => this.setPrompt(replaceWord(this.$(".prompt").value, word, known)));
        line.append(button);
      }
      box.append(line);
    }
    if (truncated) box.append(element("p", {}, notes.at(-1) ?? "The prompt is too long; its end is left out."));
  }

  showRunning(about) {
    const device = about.device_name && about.device_name !== about.device ? `${about.device} (${about.device_name})` : about.device;
    const pairs = [
      ["model", about.preset], ["sampler", this.$(".sampler").value || about.samplers?.turbo], ["precision", about.precision],
      ["device", device], ["weights", about.weights?.student?.slice(0, 8)], ["kernels", (about.kernels ?? []).join("; ")],
    ];
    fill(this.$(".running"), pairs.filter(([, value]) => value));
    this.about = about;
  }

  showTimes(header) {
    const pairs = [];
    const edit = this.edits.get(header.generation);
    if (edit?.firstMs !== undefined) {
      pairs.push(["keystroke to picture", seconds(edit.firstMs / 1000)], ["whole clip", seconds(edit.wholeMs / 1000)]);
      this.desk.dataset.firstMs = Math.round(edit.firstMs);
      this.desk.dataset.wholeMs = Math.round(edit.wholeMs);
    }
    for (const [key, name] of STAGES) if (header.stage_s[key] !== undefined) pairs.push([name, seconds(header.stage_s[key])]);
    if (header.remembered) pairs.push(["", "(made earlier)"]);
    fill(this.$(".times"), pairs);
    if (this.about) this.showRunning({ ...this.about, samplers: { turbo: header.recipe.sampler } });
  }

  // -- controls -------------------------------------------------------------------------------------------------------

  fillControls(hello) {
    const steps = this.$(".steps");
    for (let n = 1; n <= hello.turbo.max_steps; n += 1) {
      const label = element("label", {}, "");
      const radio = element("input", { type: "radio", name: "rushes-steps", value: n, checked: n === hello.turbo.num_steps });
      radio.addEventListener("change", () => this.ask());
      label.append(radio, element("span", {}, String(n)));
      steps.append(label);
    }
    options(this.$(".sampler"), hello.turbo.samplers, hello.turbo.sampler);
    const full = [...new Set([hello.full.num_steps, ...FULL_STEPS])].filter((n) => n <= hello.full.max_steps);
    options(this.$(".full-steps"), full, hello.full.num_steps);
    for (const example of hello.examples) {
      const chip = element("button", { type: "button", className: "chip" }, example);
      chip.addEventListener("click", () => this.setPrompt(example));
      this.$(".examples").append(chip);
    }
    if (hello.world) this.fillWorld(hello);
  }

  fillWorld({ preset, world }) {
    this.$(".world").hidden = false;
    this.$(".world-note").textContent = `${preset} is a small model of a small world: ${world.subjects.length} subjects in `
      + `${world.scenes.length} scenes. Click a word to put it in the shot. Other words are read, but mostly not understood.`;
    for (const group of ["scenes", "motions", "cameras", "subjects"]) {
      const box = element("div", { className: "world-group" }, "");
      box.append(element("h3", {}, group));
      for (const item of world[group]) {
        const chip = element("button", { type: "button", className: "chip", title: item.phrases.slice(0, 8).join(", ") },
          group === "motions" ? item.insert : item.name);
        chip.addEventListener("click", () => this.setPrompt(put(this.$(".prompt").value, world, group, item)));
        box.append(chip);
      }
      this.$(".world-groups").append(box);
    }
  }

  bindControls() {
    const prompt = this.$(".prompt");
    prompt.addEventListener("input", (event) => {
      if (!event.isComposing) this.edited();
    });
    prompt.addEventListener("compositionend", () => this.edited());
    this.$(".seed").addEventListener("input", () => { this.touched = true; this.ask(); });
    this.$(".seed").addEventListener("change", () => { this.$(".seed").value = this.seed(); });
    this.$(".dice").addEventListener("click", () => this.reroll());
    this.$(".lock").addEventListener("click", () => this.toggleLock());
    this.$(".sampler").addEventListener("change", () => this.ask());
    this.$(".final-button").addEventListener("click", () => this.renderFull());
    this.$(".final-cancel").addEventListener("click", () => this.cancelFull());
    this.$(".play").addEventListener("click", () => this.player.toggle());
    this.$(".step-back").addEventListener("click", () => this.player.step(-1));
    this.$(".step-on").addEventListener("click", () => this.player.step(1));
    this.$(".scrub").addEventListener("input", (event) => this.player.seek(Number(event.target.value)));
    for (const frame of this.desk.querySelectorAll(".frame")) frame.addEventListener("click", () => this.player.toggle());
  }

  reroll() {
    this.$(".seed").value = anySeed();
    this.touched = true;
    this.ask();
  }

  toggleLock() {
    const lock = this.$(".lock");
    lock.setAttribute("aria-pressed", lock.getAttribute("aria-pressed") !== "true");
  }

  bindKeys() {
    document.addEventListener("keydown", (event) => {
      if (event.isComposing || event.defaultPrevented) return;
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return act(() => this.renderFull());
      const target = event.target;
      if (event.key === "Escape" && target === this.$(".prompt")) return act(() => target.blur());
      if (event.ctrlKey || event.metaKey || event.altKey || target.closest?.("input, textarea, select, [contenteditable]")) return;
      const onButton = target.closest?.("button, a, summary");
      const action = {
        " ": onButton ? null : () => this.player.toggle(),
        ArrowLeft: () => this.player.step(event.shiftKey ? -5 : -1),
        ArrowRight: () => this.player.step(event.shiftKey ? 5 : 1),
        Home: () => this.player.seek(0),
        End: () => this.player.seek(-1),
        "/": () => this.$(".prompt").focus(),
        r: () => this.reroll(),
        g: () => this.toggleLock(),
      }[event.key];
      if (action) act(action);

      function act(what) {
        event.preventDefault();
        what();
      }
    });
  }
}

function element(tag, properties, text) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text) made.textContent = text;
  return made;
}

function fill(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => {
    const pair = element("div", {}, "");
    if (name) pair.append(element("dt", {}, name));
    pair.append(element("dd", {}, value));
    return pair;
  }));
}

function options(select, values, chosen) {
  select.replaceChildren(...values.map((value) => element("option", { value, selected: value === chosen }, String(value))));
}

const anySeed = () => Math.floor(Math.random() * SEEDS);
const short = (text) => (text.length > 40 ? `${text.slice(0, 39)}…` : text);
const seconds = (s) => (s < 0.0995 ? `${Math.round(s * 1000)} ms` : s < 9.95 ? `${s.toFixed(s < 0.995 ? 2 : 1)} s` : `${Math.round(s)} s`);
