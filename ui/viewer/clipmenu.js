// How large and how long a clip is: two menus of what the preset makes.

import { element } from "./dom.js";

export class ClipMenu {
  /** onChange(): the person chose another. */
  constructor(root, { onChange }) {
    this._size = root.querySelector(".size");
    this._length = root.querySelector(".length");
    for (const menu of [this._size, this._length]) menu.addEventListener("change", onChange);
  }

  /** clip: { fps, width, height, num_frames, sizes: [[width, height]], lengths, max_num_frames }. */
  fill(clip) {
    this._clip = clip;
    this._size.replaceChildren(...clip.sizes.map(([width, height]) => element("option", { value: `${width}x${height}` }, `${width} × ${height}`)));
    this._length.replaceChildren(...clip.lengths.map((frames) => this._lengthOption(frames)));
    this._size.value = `${clip.width}x${clip.height}`;
    this._length.value = clip.num_frames;
    for (const menu of [this._size, this._length]) {
      menu.disabled = menu.options.length < 2;
      menu.title = menu.disabled ? "This model makes no other" : "";
    }
  }

  /** { width, height, num_frames }, each a number. */
  wish() {
    const [width, height] = this._size.value.split("x").map(Number);
    return { width, height, num_frames: Number(this._length.value) };
  }

  /** Take over what is given. Returns: a plain sentence on what this preset does not make, or "". */
  set({ width, height, num_frames: frames }) {
    const refused = [], size = `${width}x${height}`;
    if (width !== undefined) {
      if ([...this._size.options].some(({ value }) => value === size)) this._size.value = size;
      else refused.push(`${width} × ${height}`);
    }
    if (frames !== undefined) {
      const known = [...this._length.options].some(({ value }) => value === String(frames));
      const possible = frames % 4 === 1 && frames > 0 && frames <= this._clip.max_num_frames;
      if (!known && possible) this._length.append(this._lengthOption(frames));      // made through code, say
      if (known || possible) this._length.value = frames;
      else refused.push(`${frames} frames`);
      this._length.disabled = this._length.options.length < 2;
    }
    return refused.length ? `This model does not make ${refused.join(" and ")}; it stays at ${this._size.selectedOptions[0].text}, ${this._length.value} frames.` : "";
  }

  _lengthOption(frames) {
    return element("option", { value: frames }, `${(frames / this._clip.fps).toFixed(1)} s · ${frames}`);
  }
}
