// The models of this app: which one runs, those to switch to, and why others cannot run.

import { ask, inWords } from "./ask.js";
import { element } from "./dom.js";

export class Models {
  /** onChoose(name): the person wants that one. onTrouble(line). */
  constructor(root, { onChoose, onTrouble }) {
    this.button = root.querySelector(".model-open");
    this.dialog = root.querySelector(".models");
    this.list = this.dialog.querySelector(".models-list");
    this._onChoose = onChoose;
    this._onTrouble = onTrouble;
    this.button.addEventListener("click", () => this.open());
    this.dialog.querySelector(".models-close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  /** The name of the one that runs, or is being loaded. */
  show(name) {
    this.button.firstElementChild.textContent = name;
    this.button.hidden = false;
  }

  async open() {
    if (this.dialog.open) return;
    this.list.replaceChildren(element("li", { className: "models-wait" }, "Looking at the weights…"));
    this.dialog.showModal();
    try {
      const { presets, current } = await ask("/rt/presets");
      this.list.replaceChildren(...presets.map((preset) => this._item(preset, preset.name === current)));
      (this.list.querySelector("[aria-current]") ?? this.list.querySelector("button")).focus();
    } catch (error) {
      this.dialog.close();
      this._onTrouble(inWords(error, "The models cannot be reached."));
    }
  }

  /** Have another one loaded. Returns: whether the app took it. */
  async choose(name) {
    this.dialog.close();
    try {
      await ask("/rt/preset", { method: "POST", body: JSON.stringify({ name }) });
      return true;
    } catch (error) {
      this._onTrouble(inWords(error, "The app cannot be reached."));
      return false;
    }
  }

  /** One that cannot run can be read, and not chosen. */
  _item({ name, about, why_not: why }, current) {
    const item = element("li"), button = element("button", { type: "button", className: "model" });
    button.append(element("b", {}, name), element("span", { className: "model-about" }, current ? `${about} · running` : about));
    if (current) button.setAttribute("aria-current", "true");
    if (why) {
      button.setAttribute("aria-disabled", "true");
      button.append(element("span", { className: "model-why" }, why));
    }
    button.addEventListener("click", () => !why && this._onChoose(name));
    item.append(button);
    return item;
  }
}
