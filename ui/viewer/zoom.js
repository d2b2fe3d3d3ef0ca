// How near the pictures are looked at, and where: one look for all of them. The wheel zooms about the pointer, a drag moves, a double
// click goes back to the whole picture. The canvases are only transformed, never redrawn, and nothing is animated.

import { followDrags, place } from "./drag.js";

export const MOST = 8, NEAREST_ABOVE = 3;
const WHEEL_PER_PX = 0.0016, PX_PER_LINE = 16, PINCH = 4;      // a pinch comes as Ctrl and small steps

export class Zoom {
  /** area: holds the .frame elements and bears the look as style and data. onChange(scale). */
  constructor(area, onChange = () => {}) {
    this._area = area;
    this._onChange = onChange;
    this.reset();
    area.addEventListener("wheel", (event) => this._wheel(event), { passive: false });
    area.addEventListener("dblclick", (event) => event.target.closest(".frame") && this.reset());
    followDrags(area, { wants: (event) => this.scale > 1 && !event.target.closest(".seam"), move: ({ dx, dy }) => this._look(this.scale, this.x + dx, this.y + dy) });
  }

  reset() {
    this._look(1, 0, 0);
  }

  /** Nearer (or further) by a factor; the point of the frame at (x, y), shares from the top left, stays where it is. */
  by(factor, x = 0.5, y = 0.5) {
    const scale = Math.min(Math.max(this.scale * factor, 1), MOST), change = scale / this.scale;
    this._look(scale, x - (x - this.x) * change, y - (y - this.y) * change);
  }

  /** scale, and the picture's top left corner in shares of the frame; the picture always fills the frame. */
  _look(scale, x, y) {
    this.scale = scale < 1.001 ? 1 : scale;
    [this.x, this.y] = [x, y].map((corner) => Math.min(Math.max(corner, 1 - this.scale), 0));
    const percent = (share) => `${(share * 100).toFixed(3)}%`;
    this._area.style.setProperty("--look",
      this.scale === 1 ? "none" : `translate(${percent(this.x)}, ${percent(this.y)}) scale(${this.scale.toFixed(4)})`);
    this._area.dataset.zoomed = this.scale > 1;
    this._area.dataset.pixels = this.scale > NEAREST_ABOVE;
    this._onChange(this.scale);
  }

  _wheel(event) {
    const frame = event.target.closest(".frame");
    const pageScrolls = document.documentElement.scrollHeight > innerHeight;
    if (!frame || (pageScrolls && !event.ctrlKey)) return;              // the wheel is the page's, where that is longer than the screen
    event.preventDefault();
    const px = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : PX_PER_LINE), at = place(event, frame);
    this.by(Math.exp(-px * WHEEL_PER_PX * (event.ctrlKey ? PINCH : 1)), at.x, at.y);
  }
}
