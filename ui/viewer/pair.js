// The pair's views: side by side, or both in one picture by wipe, flip, difference or onion. Knows which view, which side is first
// and where the seam is; the player hands it the two bitmaps on screen, so it is at the same frame index by construction.

import { blend, columnAt } from "./blend.js";
import { followDrags } from "./drag.js";

const SEAM_KEYS = { ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01, PageDown: -0.1, PageUp: 0.1, Home: -1, End: 1 };
const NAMES = { turbo: "Turbo", full: "Full" };

export class Pair {
  /** root: the desk. zoom: { scale, x }, where the look is. */
  constructor(root, zoom) {
    this._root = root;
    this.$ = (selector) => root.querySelector(selector);
    this._zoom = zoom;
    this._context = this.$(".pair-picture").getContext("2d", { alpha: false });
    this._there = false;        // both clips are
    this._wish = "side";
    this._seam = 0.5;
    this._drawn = [];
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
    return this._there ? this._wish : "side";
  }

  /** Whether both clips are there. The view chosen is kept for when they are again. */
  enable(there) {
    if (there === this._there) return;
    this._there = there;
    this._show();
  }

  /** Choosing flip again shows the other one. */
  choose(view) {
    if (!this._there) return;
    this.second = view === "flip" && this._wish === "flip" && !this.second;
    this._wish = view;
    this._show();
  }

  swap() {
    if (!this._there) return;
    this.swapped = !this.swapped;
    this._show();
  }

  /** The bitmaps on screen, at each of the player's ticks; draws only when something is new. */
  draw(turbo, full) {
    if (this.view === "side" || !turbo || !full) return;
    const [a, b] = this.swapped ? [full, turbo] : [turbo, full];
    const { column, at } = columnAt(this._seam, a, this._zoom);
    const now = [this.view, a, b, column, this.second];
    if (this.view === "wipe" && at !== this._at) {
      this._at = at;
      this.$(".seam").style.left = `${Math.min(Math.max(at, 0), 1) * 100}%`;
    }
    if (now.every((value, i) => value === this._drawn[i])) return;
    blend(this._context, this.view, a, b, { column, second: this.second });
    this._drawn = now;
  }

  _show() {
    const { view } = this, [left, right] = this.swapped ? ["full", "turbo"] : ["turbo", "full"];
    const shown = this.second ? right : left;
    Object.assign(this._root.dataset, { pair: this._there, view, swapped: this.swapped, flip: shown });
    this.$(".views").hidden = !this._there;
    this.$(".swap").disabled = view === "difference" || view === "onion";       // they are the same either way round
    for (const button of this._root.querySelectorAll(".views [data-choose]")) {
      button.setAttribute("aria-pressed", button.dataset.choose === view);
    }
    this.$(".pair-picture").setAttribute("aria-label", {
      side: "", wipe: `${NAMES[left]} left of the seam, ${NAMES[right]} right of it`, flip: `${NAMES[shown]} clip`,
      difference: "Difference of turbo and full, four times as bright", onion: "Turbo and full, half and half",
    }[view]);
    const percent = Math.round(this._seam * 100), seam = this.$(".seam");
    seam.setAttribute("aria-valuenow", percent);
    seam.setAttribute("aria-valuetext", `${NAMES[left]} ${percent} %, ${NAMES[right]} ${100 - percent} %`);
    this._drawn = [];
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
