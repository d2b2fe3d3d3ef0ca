// How alike the pair is, frame by frame: SSIM and PSNR as two lines under the scrub bar, measured by the server on lossless frames.

import { ask, inWords } from "./ask.js";
import { element } from "./dom.js";

const WIDE = 1000, HIGH = 100;      // the plot's own units; it is stretched to the scrub bar
const SSIM_FLOORS = [0.9, 0.8, 0.6, 0, -1];

export class Match {
  /** onJump(frame): a click on the plot, or on the worst frame. load(a, b) -> scores or throws; a test hands in its own. */
  constructor(root, { onJump, load = loadScores }) {
    this.$ = (selector) => root.querySelector(selector);
    this._load = load;
    this._pair = "";
    this._scores = null;
    this._bind(onJump);
    this.clear();
  }

  /** Measure the clips of two ids, unless they are what is shown already. timed: they have no frame numbers in common, see Transport. */
  async measure(a, b, timed = false) {
    const pair = `${a}/${b}`;
    if (pair === this._pair) return;
    this.clear();
    this._pair = pair;
    this._timed = timed;
    this.$(".match-summary").textContent = "Measuring how alike they are…";
    try {
      const scores = await this._load(a, b);
      if (this._pair === pair) this._show(scores);
    } catch (error) {
      if (this._pair !== pair) return;
      this.clear();                   // so that it is tried again
      this.$(".match-summary").textContent = inWords(error, "The two could not be measured: no connection.");
    }
  }

  clear() {
    this._pair = "";
    this._scores = null;
    this.$(".plot").dataset.empty = "true";
    this.$(".plot-scale").style.visibility = "hidden";
    this.$(".match-summary").textContent = "";
    this._hover(null);
  }

  /** Where the clock stands. */
  at(index) {
    this._index = index;
    if (this._scores) this._stand(this.$(".plot-now"), index);
  }

  _show(scores) {
    this._scores = scores;
    const { ssim, psnr_db: psnr } = scores, { text, worst, rest } = summary(scores, this._timed), scale = scales(scores);
    const line = (values, [low, high]) => values.map((value, i) => {
      const share = value === null ? 1 : (value - low) / (high - low);
      return `${this._x(i).toFixed(1)},${(HIGH * (1 - Math.min(Math.max(share, 0), 1))).toFixed(1)}`;
    }).join(" ");
    this.$(".plot-ssim").setAttribute("points", line(ssim, scale.ssim));
    this.$(".plot-psnr").setAttribute("points", line(psnr, scale.psnr));
    this.$(".scale-ssim").textContent = `SSIM ${scale.ssim.join(" – ")}`;
    this.$(".scale-psnr").textContent = `PSNR ${scale.psnr.join(" – ")} dB`;
    this.$(".plot-scale").style.visibility = "visible";
    this.$(".plot").dataset.empty = "false";
    const jump = element("button", { type: "button", className: "worst" }, worst.text);
    jump.dataset.frame = worst.frame;
    this.$(".match-summary").replaceChildren(text, ...(worst.text ? [jump] : []), rest);
    this.at(this._index ?? 0);
  }

  _x(frame) {
    return (WIDE * frame) / Math.max(1, this._scores.ssim.length - 1);
  }

  _stand(line, frame) {
    for (const end of ["x1", "x2"]) line.setAttribute(end, this._x(frame));
  }

  _bind(onJump) {
    const plot = this.$(".plot");
    const frameAt = (event) => {
      if (!this._scores) return null;
      const box = plot.querySelector("svg").getBoundingClientRect(), last = this._scores.ssim.length - 1;
      return Math.min(Math.max(Math.round(((event.clientX - box.left) / box.width) * last), 0), last);
    };
    plot.addEventListener("pointermove", (event) => this._hover(frameAt(event)));
    plot.addEventListener("pointerleave", () => this._hover(null));
    plot.addEventListener("click", (event) => this._scores && onJump(frameAt(event)));
    this.$(".match-summary").addEventListener("click", ({ target }) => target.dataset.frame && onJump(Number(target.dataset.frame)));
  }

  _hover(frame) {
    const numbers = this.$(".match-frame"), mark = this.$(".plot-hover");
    numbers.hidden = frame === null;
    this.$(".match-summary").style.visibility = frame === null ? "visible" : "hidden";
    mark.style.visibility = frame === null ? "hidden" : "visible";
    if (frame === null) return;
    const { ssim, psnr_db: psnr } = this._scores;
    numbers.textContent = `${moment(frame, this._scores, this._timed)} · SSIM ${ssim[frame].toFixed(3)} · ${decibels(psnr[frame])}`;
    this._stand(mark, frame);
  }
}

/** What the numbers come to, in three pieces; frames are counted from 1 for a person. */
export function summary(scores, timed) {
  const { ssim, psnr_db: psnr } = scores;
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const unequal = psnr.filter((db) => db !== null), frame = ssim.indexOf(Math.min(...ssim));
  if (!unequal.length) return { text: "Every frame is the same, to the bit", worst: { frame: 0, text: "" }, rest: "" };
  const where = unequal.length === psnr.length ? "" : `, over the ${unequal.length === 1 ? "one frame that differs" : `${unequal.length} frames that differ`}`;
  return {
    text: `SSIM ${mean(ssim).toFixed(3)} mean, `,
    worst: { frame, text: `worst ${timed ? "at " : ""}${moment(frame, scores, timed)} (${ssim[frame].toFixed(2)})` },
    rest: ` · PSNR ${mean(unequal).toFixed(1)} dB mean${where}`,
  };
}

/** Round ends that hold all values: SSIM always up to 1, PSNR in tens. */
export function scales({ ssim, psnr_db: psnr }) {
  const lowest = Math.min(...ssim), unequal = psnr.filter((db) => db !== null);
  const low = unequal.length ? Math.floor(Math.min(...unequal) / 10) * 10 : 30;
  const high = unequal.length ? Math.ceil(Math.max(...unequal) / 10) * 10 : 40;
  return { ssim: [SSIM_FLOORS.find((floor) => floor <= lowest) ?? -1, 1], psnr: [low, Math.max(high, low + 10)] };
}

const moment = (frame, { fps }, timed) => (timed ? `${(frame / fps).toFixed(2)} s` : `frame ${frame + 1}`);

const decibels = (db) => (db === null ? "equal to the bit" : `PSNR ${db.toFixed(1)} dB`);

const loadScores = (a, b) => ask(`/rt/compare/${encodeURIComponent(a)}/${encodeURIComponent(b)}`);
