// The export dialog: what, as which kind of file, how large; then progress, and the file lands in the downloads.

import { ask } from "./ask.js";
import { element, optionsInto } from "./dom.js";

const LOOK_AGAIN_MS = 150;

export class Export {
  /** sides(): { turbo, full } headers of the finished clips on screen, either may be missing. at(): the frame on screen. */
  constructor(root, { sides, at }) {
    this.dialog = root.querySelector(".export");
    this.$ = (selector) => this.dialog.querySelector(selector);
    this._sides = sides;
    this._at = at;
    this.dialog.addEventListener("change", () => this._changed());
    this.$(".export-go").addEventListener("click", () => this._start());
    this.$(".export-stop").addEventListener("click", () => this._stop());
    this.$(".export-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("close", () => this._stop());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  async open() {
    const { turbo, full } = this._sides();
    if (this.dialog.open || !(turbo || full)) return;
    this._clips = { turbo: turbo?.id, full: full?.id };
    this._length = turbo?.recipe.num_frames ?? full.recipe.num_frames;
    for (const input of this.dialog.querySelectorAll("[name=export-what]")) {
      input.disabled = !{ turbo, full, both: turbo && full }[input.value];
      if (input.checked && input.disabled) input.checked = false;
    }
    if (!this.$("[name=export-what]:checked")) this.$("[name=export-what]:not(:disabled)").checked = true;
    for (const name of [".export-in", ".export-out"]) this.$(name).max = this._length;
    if (!(this.$(".export-out").value <= this._length && this.$(".export-out").value > 0)) this.$(".export-out").value = this._length;
    if (!this.$(".export-format").options.length) await this._fill();
    this._idle("");
    this.dialog.showModal();
    this._changed();
  }

  /** Where the trim begins or ends: the frame on screen. */
  trim(end, frame) {
    this.$(end === "in" ? ".export-in" : ".export-out").value = frame + 1;
  }

  async _fill() {
    const formats = await ask("/rt/formats"), menu = this.$(".export-format");
    optionsInto(menu, formats.map(({ name }) => name), "mp4");
    formats.forEach(({ label }, i) => { menu.options[i].textContent = label; });
  }

  _wish() {
    const what = this.$("[name=export-what]:checked").value, format = this.$(".export-format").value;
    const number = (selector) => Number(this.$(selector).value);
    return {
      a: what === "full" ? this._clips.full : this._clips.turbo,
      b: what === "both" ? this._clips.full : null,
      format,
      scale: number(".export-scale"),
      fps: number(".export-fps") || null,
      loops: format === "gif" ? null : number(".export-loops"),
      trim_in: number(".export-in") - 1,
      trim_out: number(".export-out") - 1,
      frame: this._at(),
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
