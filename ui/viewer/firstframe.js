// The picture a clip starts from: chosen or dropped, shown whole with the part that is used lit, cleared. The server turns and crops it,
// by the very code the engine uses.

import { ask, inWords } from "./ask.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];

export class FirstFrame {
  /** onChange(): another picture, or none. onTrouble(line). size(): { width, height } of the clip. */
  constructor(root, { onChange, onTrouble, size }) {
    this.box = root.querySelector(".first-frame");
    this.$ = (selector) => this.box.querySelector(selector);
    this._on = { onChange, onTrouble };
    this._size = size;
    this._picture = null;       // { id, width, height }
    const file = this.$(".first-file");
    this.$(".first-choose").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      if (file.files[0]) this.take(file.files[0]);
      file.value = "";
    });
    this.$(".first-clear").addEventListener("click", () => {
      this._put(null);
      this.$(".first-choose").focus();
      this._on.onChange();
    });
  }

  /** Whether the preset starts from a picture. */
  get wanted() {
    return !this.box.hidden;
  }

  set wanted(on) {
    this.box.hidden = !on;
    if (on && this._picture && !this._picture.width) this._look(this._picture.id);
  }

  /** SHA-256 of the picture chosen, "" for none. */
  get id() {
    return this.wanted && this._picture ? this._picture.id : "";
  }

  /** Whether a dropped file is one for here. */
  fits(file) {
    return this.wanted && KINDS.includes(file.type);
  }

  /** A file of the person's. */
  async take(file) {
    const asked = (this._asked = {});
    this.$(".first-facts").textContent = "Reading the picture";
    try {
      const picture = await ask("/rt/picture", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
      if (asked !== this._asked) return;
      this._put(picture);
      this._on.onChange();
    } catch (error) {
      if (asked !== this._asked) return;
      this._put(this._picture);
      this._on.onTrouble(inWords(error, "The picture could not be sent: no connection."));
    }
  }

  /** The picture of a shot that comes back, by its name; "" takes it away. */
  set(id) {
    if (id === (this._picture?.id ?? "")) return;
    this._put(id ? { id } : null);
    if (id && this.wanted) this._look(id);
  }

  /** The clip's size may be another: so may the part that is used. */
  resized() {
    if (!this._picture || !this.wanted) return;
    const { id } = this._picture, { width, height } = this._size(), path = `/rt/picture/${id}/shown.jpg`, crop = this.$(".first-crop");
    const src = `${path}?width=${width}&height=${height}`;
    if (crop.getAttribute("src") !== src) crop.src = src;
    if (this.$(".first-whole").getAttribute("src") !== path) this.$(".first-whole").src = path;
  }

  async _look(id) {
    const asked = (this._asked = {});
    try {
      const picture = await ask(`/rt/picture/${id}`);
      if (asked !== this._asked) return;
      this._put(picture.known ? picture : null);
      if (!picture.known) this._on.onTrouble("The picture this clip started from is not kept here; choose it again.");
    } catch {
      if (asked === this._asked) this._on.onTrouble("The picture this clip started from cannot be reached.");
    }
  }

  _put(picture) {
    this._picture = picture;
    this.box.dataset.there = Boolean(picture);
    this.$(".first-clear").hidden = !picture;
    this.$(".first-choose").textContent = picture ? "Another" : "Choose";
    for (const image of this.box.querySelectorAll("img")) if (!picture) image.removeAttribute("src");
    if (picture?.width) this.$(".first-shown").style.setProperty("--shape", picture.width / picture.height);
    this.$(".first-facts").textContent = !picture ? "A picture to start from; drop one on the page, or" : picture.width ? `${picture.width} × ${picture.height}, the lit part is used` : "";
    if (picture?.width) this.resized();
  }
}
