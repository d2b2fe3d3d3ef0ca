// What runs here, and how long it took: the two lines of facts, the lamp, the message line.

import { pairsInto, seconds } from "./dom.js";

const STAGES = [["text", "text"], ["denoise", "DiT"], ["decode", "decode"], ["encode", "encode"]];

export class Facts {
  constructor(root) {
    this.$ = (selector) => root.querySelector(selector);
  }

  lamp(state, text) {
    this.$(".lamp").dataset.state = state;
    this.$(".lamp-text").textContent = text;
  }

  say(text, tone = "note") {
    const line = this.$(".message");
    line.textContent = text;
    line.dataset.tone = tone;
  }

  /** about: Engine.describe(). sampler: of the clip on screen, else the preset's. */
  running(about, sampler = about.samplers?.turbo) {
    const { device, device_name: name } = about;
    pairsInto(this.$(".running"), [
      ["model", about.preset], ["sampler", sampler], ["precision", about.precision],
      ["device", name && name !== device ? `${device} (${name})` : device],
      ["student", about.student], ["weights", about.weights?.student?.slice(0, 8)], ["kernels", (about.kernels ?? []).join("; ")],
    ].filter(([, value]) => value));
  }

  /** header: of the finished clip. firstMs, wholeMs: from the keystroke, where there was one. */
  times(header, { firstMs, wholeMs } = {}) {
    const keyed = firstMs === undefined ? [] : [["keystroke to picture", seconds(firstMs / 1000)], ["whole clip", seconds(wholeMs / 1000)]];
    const stages = STAGES.filter(([key]) => header.stage_s[key] !== undefined).map(([key, name]) => [name, seconds(header.stage_s[key])]);
    pairsInto(this.$(".times"), [...keyed, ...stages, ...(header.remembered ? [["", "(made earlier)"]] : [])]);
  }
}
