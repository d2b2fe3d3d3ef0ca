// The panel: what a person asks for. Prompt, seed, steps, sampler, size and length; examples, taught words, and what to say about the untaught.

import { ClipMenu } from "./clipmenu.js";
import { FirstFrame } from "./firstframe.js";
import { chip, element, optionsInto } from "./dom.js";
import { put, replaceWord } from "./phrases.js";

const FULL_STEPS = [50, 30, 20, 10];
const DICE = 1_000_000;
const MAX_SEED = 2 ** 32 - 1;
const WORDS_PAUSE_MS = 500;

export class Panel {
  /** onEdit(): the person asks for something else. onTrouble(line). touched: whether they ever did. */
  constructor(root, { onEdit, onTrouble }) {
    this.$ = (selector) => root.querySelector(selector);
    this.touched = false;
    this._onEdit = onEdit;
    this._clip = new ClipMenu(root, { onChange: () => this._resized() });
    this.first = new FirstFrame(root, { onChange: () => this._changed(), onTrouble, size: () => this._clip.wish() });
    this._bind();
  }

  /** What the controls say now. */
  wish() {
    return {
      prompt: this.$(".prompt").value,
      seed: this._seed(),
      num_steps: Number(this.$(".steps input:checked").value),
      sampler: this.$(".sampler").value,
      ...this._clip.wish(),
      image_sha256: this.first.id,
      preset: this._preset,
    };
  }

  /** What is missing before a clip can be asked for, in plain words, or "". */
  get lacking() {
    return this.first.wanted && !this.first.id ? "Choose a picture to start from, or drop one here" : "";
  }

  /** What a full render shall keep out. */
  get negative() {
    return this.$(".negative").value;
  }

  get fullSteps() {
    return Number(this.$(".full-steps").value);
  }

  /** Menus, examples and the taught world, once the server has said what they are; again for another preset. What was chosen stays
   *  where it can. Returns: as `set`. */
  fill(hello) {
    const before = this._preset && this.state();
    this._preset = hello.preset;
    this._clip.fill(hello.clip);
    this.first.wanted = hello.takes_image;
    this.$(".steps").replaceChildren();
    for (let n = 1; n <= hello.turbo.max_steps; n += 1) {
      const label = element("label");
      label.append(element("input", { type: "radio", name: "rushes-steps", value: n, checked: n === hello.turbo.num_steps }),
        element("span", {}, String(n)));
      this.$(".steps").append(label);
    }
    optionsInto(this.$(".sampler"), hello.turbo.samplers, hello.turbo.sampler);
    const full = [...new Set([hello.full.num_steps, ...FULL_STEPS])].filter((n) => n <= hello.full.max_steps);
    optionsInto(this.$(".full-steps"), full, hello.full.num_steps);
    this.$(".examples").replaceChildren(...hello.examples.map((example) => chip(example, () => this._type(example))));
    this.$(".world").hidden = !hello.world;
    if (hello.world) this._fillWorld(hello.world);
    this._forgetWords();
    if (before) return this.set({ ...before, ...this._ownDefaults(hello) });
    if (matchMedia("(hover: hover)").matches) this.$(".prompt").focus({ preventScroll: true });
    return "";
  }

  /** What another preset has its own way of: sampler and steps, size and length. */
  _ownDefaults({ turbo, full, clip }) {
    return { num_steps: turbo.num_steps, sampler: turbo.sampler, full_steps: full.num_steps, width: clip.width, height: clip.height, num_frames: clip.num_frames };
  }

  /** Everything the controls say, for `set`. */
  state() {
    return { ...this.wish(), full_steps: this.fullSteps, negative_prompt: this.negative, locked: this._locked };
  }

  /** Put a whole shot into the controls, without asking for it; what is left out stays as it is. Returns: a plain sentence on what
   *  this preset does not make, or "". */
  set({ prompt, seed, num_steps: steps, sampler, full_steps: full, negative_prompt: negative, locked, image_sha256: picture, width, height, num_frames }) {
    this.$(".prompt").value = prompt;
    this.$(".seed").value = seed;
    const choice = this.$(`.steps input[value="${Number(steps)}"]`);
    if (choice) choice.checked = true;
    for (const [menu, value] of [[".sampler", sampler], [".full-steps", full]]) {
      const options = [...this.$(menu).options];
      if (options.some((option) => option.value === String(value))) this.$(menu).value = value;
    }
    if (negative !== undefined) this.$(".negative").value = negative;
    if (locked !== undefined && locked !== this._locked) this.toggleLock();
    const refused = this._clip.set({ width, height, num_frames });
    if (picture !== undefined) this.first.set(picture);
    this.first.resized();
    return refused;
  }

  reroll() {
    this.$(".seed").value = Math.floor(Math.random() * DICE);
    this._changed();
  }

  toggleLock() {
    this.$(".lock").setAttribute("aria-pressed", !this._locked);
  }

  /** Half a word is always unknown: what to say about the words waits for a pause. isCurrent: whether it still matters then. */
  showWords(report, isCurrent) {
    clearTimeout(this._pause);
    const calm = !report.unknown.length && !report.corrected.length && !report.truncated;
    this._pause = setTimeout(() => isCurrent() && this._fillWords(report), calm ? 0 : WORDS_PAUSE_MS);
    this._fillSettled(report);
  }

  _forgetWords() {
    clearTimeout(this._pause);
    for (const box of [".words", ".settled"]) this.$(box).replaceChildren();
  }

  get _locked() {
    return this.$(".lock").getAttribute("aria-pressed") === "true";
  }

  _seed() {
    const seed = Math.floor(Number(this.$(".seed").value));
    return Number.isFinite(seed) ? Math.min(Math.max(seed, 0), MAX_SEED) : 0;
  }

  _type(text) {
    this.$(".prompt").value = text;
    this._typed();
  }

  /** The same shot in other words: with the seed that it has. */
  _write(text) {
    this.$(".prompt").value = text;
    this._changed();
  }

  /** The words changed: with the seed unlocked, that is a new seed too. */
  _typed() {
    if (this._locked) this._changed();
    else this.reroll();
  }

  _resized() {
    this.first.resized();
    this._changed();
  }

  _changed() {
    this.touched = true;
    if (!this.$(".prompt").value.trim()) this._forgetWords();
    this._onEdit();
  }

  _bind() {
    const prompt = this.$(".prompt"), seed = this.$(".seed");
    prompt.addEventListener("input", (event) => {
      if (!event.isComposing) this._typed();
    });
    prompt.addEventListener("compositionend", () => this._typed());
    seed.addEventListener("input", () => this._changed());
    seed.addEventListener("change", () => { seed.value = this._seed(); });
    this.$(".dice").addEventListener("click", () => this.reroll());
    this.$(".lock").addEventListener("click", () => this.toggleLock());
    this.$(".steps").addEventListener("change", () => this._changed());
    this.$(".sampler").addEventListener("change", () => this._changed());
  }

  _fillWorld(world) {
    this.$(".world-groups").replaceChildren();
    this.$(".world-note").textContent = `${this._preset} is a small model of a small world: ${world.subjects.length} subjects in `
      + `${world.scenes.length} scenes. Click a word to put it in the shot; the scene and the place are the seed's choice where you name none. `
      + "Other words are read, but mostly not understood.";
    for (const group of ["scenes", "motions", "places", "cameras", "subjects"]) {
      const box = element("div", { className: "world-group" });
      box.append(element("h3", {}, group), ...world[group].map((item) => chip(
        group === "motions" ? item.insert : item.name,
        () => this._type(put(this.$(".prompt").value, world, group, item)),
        { title: item.phrases.slice(0, 8).join(", ") },
      )));
      this.$(".world-groups").append(box);
    }
  }

  /** What the seed adds where the prompt leaves it open, and a way to keep that. Said at once, and not aloud: it comes and goes with the words. */
  _fillSettled({ settled, read_as: whole }) {
    const keep = chip("Write it out", () => this._write(whole), { title: whole });
    this.$(".settled").replaceChildren(...settled.length ? [`The seed adds “${settled.join("”, “")}” `, keep] : []);
  }

  _fillWords({ unknown, corrected, suggestions, truncated, notes, foreign }) {
    const box = this.$(".words");
    box.replaceChildren();
    if (foreign) {
      box.append(...notes.map((note) => element("p", {}, note)));
      return;
    }
    const swap = (word, known) => chip(known, () => this._type(replaceWord(this.$(".prompt").value, word, known)));
    for (const [word, known] of corrected) {
      const line = element("p", { className: "nearest" }, `“${word}” is read as `);
      line.append(swap(word, known));
      box.append(line);
    }
    if (unknown.length) {
      box.append(element("p", {}, `${this._preset} was not taught ${unknown.map((word) => `“${word}”`).join(", ")}.`));
    }
    for (const [word, nearest] of suggestions) {
      const line = element("p", { className: "nearest" }, unknown.length > 1 ? `Instead of “${word}”: ` : "Nearest it knows: ");
      line.append(...nearest.map((known) => swap(word, known)));
      box.append(line);
    }
    if (truncated) box.append(element("p", {}, notes.at(-1) ?? "The prompt is too long; its end is left out."));
  }
}
