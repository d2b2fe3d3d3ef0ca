// The export dialog: what, as which kind of file, how large; then progress, and the file lands in the downloads.

import { ask } from "./ask.js";
import { element, optionsInto } from "./dom.js";
import { clockOf, frameAt, ticksFor } from "./time.js";

const LOOK_AGAIN_MS = 150;

export class Export {
  /** sides(): the finished clips on screen, first and second, [{ name, header }]. player: whose clock has the moment and the trim. */
  constructor(root, { sides, player }) {
    this.dialog = root.querySelector(".export");
    this.$ = (selector) => this.dialog.querySelector(selector);
    this._sides = sides;
    this._player = player;
    this.dialog.addEventListener("change", ({ target }) => {
      if (target.name === "export-what") this._showTrim();
      if (target.matches(".export-in, .export-out")) this._trim();
      this._changed();
    });
    this.$(".export-go").addEventListener("click", () => this._start());
    this.$(".export-stop").addEventListener("click", () => this._stop());
    this.$(".export-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this._stop());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  async open() {
    const [first, second] = this._sides();
    if (this.dialog.open || !first) return;
    this._clips = { first: first.header, second: second?.header };
    this.$(".export-first").textContent = first.name;
    this.$(".export-second").textContent = second?.name ?? "Full";
    for (const input of this.dialog.querySelectorAll("[name=export-what]")) input.disabled = !second && input.value !== "first";
    if (this.$("[name=export-what]:checked").disabled) this.$("[name=export-what][value=first]").checked = true;
    if (!this.$(".export-format").options.length) await this._fill();
    this._showTrim();
    this._idle("");
    this.dialog.showModal();
    this._changed();
  }

  /** The length and rate of what is chosen: a clip's own, or the clock's of both. */
  get _pace() {
    const paces = Object.values(this._clips).filter(Boolean).map((header) => ({ total: header.total, fps: header.fps }));
    return { first: paces[0], second: paces[1], both: clockOf(paces) }[this._what];
  }

  get _what() {
    return this.$("[name=export-what]:checked").value;
  }

  /** A moment of the player's clock as a frame of what is chosen. */
  _frameAt(tick) {
    const { total, fps } = this._pace;
    return Math.min(frameAt(tick, fps, this._player.clock.fps), total - 1);
  }

  /** The part that is played, in frames of what is chosen. */
  _showTrim() {
    const { part } = this._player.clock;
    for (const [name, tick] of [[".export-in", part.from], [".export-out", part.to]]) {
      Object.assign(this.$(name), { max: this._pace.total, value: this._frameAt(tick) + 1 });
    }
  }

  /** What is written here is played, too; nonsense is left for the server to refuse. */
  _trim() {
    const { trim_in: first, trim_out: last } = this._wish();
    if (first >= 0 && first <= last && last < this._pace.total) this._player.trim(ticksFor(first, last, this._pace, this._player.clock));
  }

  async _fill() {
    const formats = await ask("/rt/formats"), menu = this.$(".export-format");
    optionsInto(menu, formats.map(({ name }) => name), "mp4");
    formats.forEach(({ label }, i) => { menu.options[i].textContent = label; });
  }

  _wish() {
    const what = this._what, { first, second } = this._clips, format = this.$(".export-format").value;
    const number = (selector) => Number(this.$(selector).value);
    return {
      a: (what === "second" ? second : first).id,
      b: what === "both" ? second.id : null,
      format,
      scale: number(".export-scale"),
      fps: number(".export-fps") || null,
      loops: format === "gif" ? null : number(".export-loops"),
      trim_in: number(".export-in") - 1,
      trim_out: number(".export-out") - 1,
      frame: this._frameAt(this._player.clock.index(performance.now())),
      strip_recipe: !this.$(".export-recipe").checked,
    };
  }

  async _changed() {
    const still = this.$(".export-format").value === "png", loops = still || ["gif", "png-zip"].includes(this.$(".export-format").value);
    for (const selector of [".export-fps", ".export-in", ".export-out"]) this.$(selector).disabled = still;
    this.$(".export-loops").disabled = loops;
    const asked = (this._asked = {});
    try {
      const { bytes } = await ask("/rt/export/estimate", { method: "POST", body: JSON.stringify(this._wish()) });
      if (asked === this._asked && !this._job) this._say(`About ${size(bytes)}`);
    } catch (error) {
      if (asked === this._asked) this._say(error.message, "error");
    }
  }

  async _start() {
    if (this._job) return;
    try {
      let job = await ask("/rt/export", { method: "POST", body: JSON.stringify(this._wish()) });
      this._job = job.job;
      this.dialog.dataset.busy = true;
      while (job.state === "running" && this._job === job.job) {
        this._say("Writing");
        this.$(".export-bar i").style.transform = `scaleX(${job.share})`;
        await new Promise((then) => setTimeout(then, LOOK_AGAIN_MS));
        job = await ask(`/rt/export/${job.job}`);
      }
      if (this._job !== job.job) return;              // stopped meanwhile
      if (job.state !== "done") throw new Error(job.message);
      const link = element("a", { href: `/rt/export/${job.job}/file`, download: job.name });
      link.click();
      this._idle(`Saved ${job.name}, ${size(job.bytes)}`);
    } catch (error) {
      this._idle(error.message, "error");
    }
  }

  _stop() {
    if (!this._job) return;
    fetch(`/rt/export/${this._job}`, { method: "DELETE" });
    this._idle("Export cancelled.");
  }

  _idle(text, tone) {
    this._job = null;
    this.dialog.dataset.busy = false;
    this.$(".export-bar i").style.transform = "scaleX(0)";
    this._say(text, tone);
  }

  _say(text, tone = "") {
    const line = this.$(".export-text");
    line.textContent = text;
    line.dataset.tone = tone;
  }
}

/** The settings inside a dropped file. Throws an Error in plain words. */
export function recipeOf(file) {
  return ask("/rt/recipe", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream", "X-File-Name": encodeURIComponent(file.name) } });
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}
