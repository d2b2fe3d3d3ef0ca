// What runs here, and how long it took: the two lines of facts, the lamp, the message line.

import { element, pairsInto, seconds } from "./dom.js";

const STAGES = [["text", "text"], ["denoise", "DiT"], ["decode", "decode"], ["encode", "encode"]];

export class Facts {
  constructor(root) {
    this.$ = (selector) => root.querySelector(selector);
    this._sitting = { picture: [], clip: [] };        // milliseconds from a keystroke, clips made before not counted
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

  /** A way on from what was said last. */
  offer(text, onClick) {
    const button = element("button", { type: "button", className: "offer link" }, text);
    button.addEventListener("click", onClick);
    this.$(".message").append(" ", button);
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
    const sitting = keyed.length && !header.remembered ? [["sitting", this._remember(firstMs, wholeMs)]] : [];
    pairsInto(this.$(".times"), [...keyed, ...stages, ...(header.remembered ? [["", "(made earlier)"]] : []), ...sitting]);
  }

  /** The sitting's budget with this clip in it: all of it on hovering. Returns the whole clip's. */
  _remember(firstMs, wholeMs) {
    const { picture, clip } = this._sitting;
    picture.push(firstMs);
    clip.push(wholeMs);
    const spread = (times) => `p50 ${seconds(percentile(times, 0.5) / 1000)}, p95 ${seconds(percentile(times, 0.95) / 1000)}`;
    this.$(".times").title = `This sitting, ${picture.length} ${picture.length === 1 ? "clip" : "clips"}: keystroke to picture ${spread(picture)}; whole clip ${spread(clip)}`;
    return spread(clip);
  }
}

/** The nearest rank. */
export function percentile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}
