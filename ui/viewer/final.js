// The full render: whether one is under way, its button, its progress and its way out.

export class FullRender {
  constructor(root, { onStart, onCancel }) {
    this.$ = (selector) => root.querySelector(selector);
    this._steps = 1;
    this.generation = null;         // of the one under way
    this.$(".final-button").addEventListener("click", onStart);
    this.$(".final-cancel").addEventListener("click", onCancel);
  }

  get underWay() {
    return this.generation !== null;
  }

  get enabled() {
    return !this.$(".final-button").disabled;
  }

  enable(on) {
    this.$(".final-button").disabled = !on;
  }

  begin(generation, steps, text = "Waiting for the preview to finish") {
    this.generation = generation;
    this._steps = steps;
    this._show(0, text);
  }

  progress({ stage, step, num_steps: steps, eta_s: eta, expert }) {
    if (stage === "text") return this._show(0, "Reading the prompt");
    if (stage === "decode") return this._show(1, "Decoding");
    this._steps = steps;
    const left = eta == null ? "" : ` · about ${Math.max(1, Math.round(eta))} s left`;
    return this._show(step / steps, `Step ${step} of ${steps}${expert ? ` · ${expert}` : ""}${left}`);
  }

  end() {
    this.generation = null;
    this.$(".final-button").hidden = false;
    this.$(".final-progress").hidden = true;
  }

  _show(share, text) {
    this.$(".final-button").hidden = true;
    this.$(".final-progress").hidden = false;
    this.$(".final-text").textContent = text;
    const bar = this.$(".final-bar");
    bar.setAttribute("aria-valuemax", this._steps);
    bar.setAttribute("aria-valuenow", Math.round(share * this._steps));
    for (const fill of [bar.firstElementChild, this.$(".side-full .thread i")]) fill.style.transform = `scaleX(${share})`;
  }
}
