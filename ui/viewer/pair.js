// The pair's views: side by side, or both in one picture by wipe, flip, difference or onion. Knows which view, which side is first
// and where the seam is; the player hands it the two bitmaps on screen, so they are of one moment by construction.

import { AMPLIFY, blend, boxOf, columnAt, sameShape } from "./blend.js";
import { followDrags } from "./drag.js";

const SEAM_KEYS = { ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };

export class Pair {
  /** root: the desk. zoom: { scale, x }, where the look is. */
  constructor(root, zoom) {
    this._root = root;
    this.$ = (selector) => root.querySelector(selector);
    this._zoom = zoom;
    this._context = this.$(".pair-picture").getContext("2d", { alpha: false });
    this._sides = null;
    this._wish = "side";
    this._seam = 0.5;
    this._drawn = [];
    this._past = [];
    this.aspect = 1;            // of the frame
    this.swapped = false;
    this.second = false;
    for (const button of root.querySelectorAll(".views [data-choose]")) {
      button.addEventListener("click", () => this.choose(button.dataset.choose));
    }
    this.$(".swap").addEventListener("click", () => this.swap());
    this._bindSeam();
    this._show();
  }

  /** What is on screen. */
  get view() {
    return this._sides ? this._wish : "side";
  }

  /** The two clips there are, or null: [{ side, name, words }, ...], words: what else to say of it. The view chosen is kept for the next
   *  two; other sides than before come in their own order. */
  enable(sides) {
    if (JSON.stringify(sides) === JSON.stringify(this._sides)) return;
    const names = (pair) => pair?.map(({ side }) => side).join();
    if (sides && this._names !== names(sides)) this.swapped = false;
    if (sides) this._names = names(sides);
    this._sides = sides;
    this._show();
  }

  /** Choosing flip again shows the other one. */
  choose(view) {
    if (!this._sides) return;
    this.second = view === "flip" && this._wish === "flip" && !this.second;
    this._wish = view;
    this._show();
  }

  swap() {
    if (!this._sides) return;
    this.swapped = !this.swapped;
    this._show();
  }

  /** The sides whose clips have ended, and stand on their last frame. */
  past(sides) {
    this._past = sides;
    const ended = (this._sides ?? []).filter(({ side }) => sides.includes(side)).map(({ name }) => name);
    this.$(".pair-past").textContent = ended.length ? `${ended.join(" and ")}: last frame` : "";
  }

  /** The bitmaps on screen by side, at each of the player's ticks; draws only when something is new. */
  draw(bitmaps) {
    if (this.view === "side") return;
    const [a, b] = this._order.map(({ side }) => bitmaps[side]);
    if (!a || !b) return;
    const { column, at } = columnAt(this._seam, boxOf(a, b), this._zoom, this.aspect);
    const now = [this.view, a, b, column, this.second];
    if (this.view === "wipe" && at !== this._at) {
      this._at = at;
      this.$(".seam").style.left = `${Math.min(Math.max(at, 0), 1) * 100}%`;
    }
    if (now.every((value, i) => value === this._drawn[i])) return;
    blend(this._context, this.view, a, b, { column, second: this.second });
    if (this.view === "difference") this._legend(a, b);
    this._drawn = now;
  }

  /** The sides as they are seen: left and right, or first and second. */
  get _order() {
    return this.swapped ? [...this._sides].reverse() : this._sides;
  }

  _show() {
    const { view } = this, there = Boolean(this._sides), [left, right] = there ? this._order : [{ name: "" }, { name: "" }];
    const [a, b] = this._sides ?? [left, right], shown = this.second ? right : left;
    Object.assign(this._root.dataset, { pair: there, view, swapped: this.swapped, flip: this.second ? "second" : "first" });
    this.$(".views").hidden = !there;
    this.$(".swap").disabled = view === "difference" || view === "onion";       // they are the same either way round
    for (const button of this._root.querySelectorAll(".views [data-choose]")) {
      button.setAttribute("aria-pressed", button.dataset.choose === view);
    }
    for (const [badge, { side = "", mode = "", name, words = "" }] of [[".pair-first", left], [".pair-second", right]]) {
      Object.assign(this.$(badge).dataset, { side, mode });
      this.$(`${badge} b`).textContent = name;
      this.$(`${badge} span`).textContent = words;
    }
    this.$(".legend-onion").textContent = `${a.name} and ${b.name}, half and half`;
    this.$(".pair-picture").setAttribute("aria-label", {
      side: "", wipe: `${left.name} left of the seam, ${right.name} right of it`, flip: `${shown.name} clip`,
      difference: `Difference of ${a.name} and ${b.name}, four times as bright`, onion: `${a.name} and ${b.name}, half and half`,
    }[view]);
    this.$(".plot").setAttribute("aria-label", `SSIM and PSNR of ${a.name} and ${b.name}, frame by frame`);
    const percent = Math.round(this._seam * 100), seam = this.$(".seam");
    seam.setAttribute("aria-label", `Seam between ${left.name} and ${right.name}`);
    seam.setAttribute("aria-valuenow", percent);
    seam.setAttribute("aria-valuetext", `${left.name} ${percent} %, ${right.name} ${100 - percent} %`);
    this.past(this._past);
    this._drawn = [];
  }

  _legend(first, second) {
    const [a, b] = this._sides, text = sameShape(first, second)
      ? `${a.name} minus ${b.name}, ×${AMPLIFY}. Approximate: from the JPEGs on screen`
      : `No difference: one picture is ${first.width} x ${first.height}, the other ${second.width} x ${second.height}, of another shape`;
    if (this.$(".legend-difference").textContent !== text) this.$(".legend-difference").textContent = text;
  }

  _moveSeam(seam) {
    this._seam = Math.min(Math.max(seam, 0), 1);
    this._show();
  }

  /** By the seam itself, or anywhere in the picture while there is nothing to pan. */
  _bindSeam() {
    const seam = this.$(".seam");
    followDrags(this.$(".pair"), {
      wants: (event) => this.view === "wipe" && (event.target.closest(".seam") || this._zoom.scale === 1),
      move: ({ x }) => this._moveSeam(x),
    });
    seam.addEventListener("click", (event) => event.stopPropagation());
    seam.addEventListener("dblclick", (event) => event.stopPropagation());
    seam.addEventListener("keydown", (event) => {
      const by = SEAM_KEYS[event.key];
      if (by === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();                                                   // the arrows are not the transport's here
      this._moveSeam(this._seam + by * (event.shiftKey && Math.abs(by) < 0.05 ? 10 : 1));
    });
  }
}
