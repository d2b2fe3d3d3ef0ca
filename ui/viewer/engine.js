// How the engine fares, in words: the lamp, what it reads while it loads, why live waits, and the way back where a model does not load.

const WAITS = "Live waits until the full render is done: both models do not fit into memory together.";

export class EngineState {
  /** facts: where it is said. onBack(preset): the person wants the model before. */
  constructor(root, facts, { onBack }) {
    this._blank = root.querySelector(".side-turbo .blank");
    this._root = root;
    this._facts = facts;
    this._onBack = onBack;
    this._note = "";            // what is being read
    this._parting = "";
    this._waits = false;
    this.about = {};
  }

  get ready() {
    return this._root.dataset.engine === "ready";
  }

  /** hello: of the model that runs, or is being loaded. */
  expect({ preset, previous }) {
    this._preset = preset;
    this._previous = previous;
  }

  /** Something to say once another model runs. */
  partWith(line) {
    this._parting = line;
  }

  /** message: of type "engine". pictured: whether there is a clip on screen, which hides the blank. */
  turned({ state, message, about }, pictured) {
    this._root.dataset.engine = state;
    this.about = about;
    this._showLamp();
    if (state === "ready") {
      if (message || this._note) this._facts.say(message || this._parting);        // a network that is read when it is first needed
      this._note = message;
      this._parting = "";
      return this._facts.running(about);
    }
    this._blank.textContent = message;
    this._note = state === "loading" ? message : "";
    this._facts.say(pictured || state === "failed" ? message : "", state === "failed" ? "error" : "note");
    if (state !== "failed" || !this._previous || this._previous === this._preset) return undefined;
    const previous = this._previous;
    return this._facts.offer(`Back to ${previous}`, () => this._onBack(previous));
  }

  /** paused: previews wait for a full render, since both models do not fit into memory together. */
  live({ paused }) {
    if (paused === this._waits) return;
    this._waits = paused;
    this._showLamp();
    this.quiet();
  }

  /** The work goes on: what was read has been read. */
  moves() {
    if (this._note) this.quiet();
    this._note = "";
  }

  /** Nothing to say, but what still holds; why a model did not load is not taken away. */
  quiet() {
    if (this._root.dataset.engine !== "failed") this._facts.say(this._waits ? WAITS : "");
  }

  lost() {
    this._facts.lamp("lost", "Connection lost");
  }

  _showLamp() {
    const { engine } = this._root.dataset, state = engine === "ready" && this._waits ? "paused" : engine;
    this._facts.lamp(state, { ready: "Live", paused: "Live paused", failed: "No model" }[state] ?? `Loading ${this._preset ?? "the model"}`);
  }
}
