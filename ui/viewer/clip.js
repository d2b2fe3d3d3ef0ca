// A clip on its way to the screen: bitmaps by frame index, arriving in any order.

import { frameAt } from "./time.js";
import { isRough, sideOf } from "./wire.js";

export class Clip {
  /** header: the "clip" message. decode: JPEG bytes -> promise of a bitmap; a test hands in its own. */
  constructor(header, decode = decodeJpeg) {
    this.header = header;
    this.generation = header.generation;
    this.total = header.total;
    this.side = sideOf(header.kind);
    this.rough = isRough(header.kind);
    this.arrived = 0;
    this.closed = false;
    this.kept = false;      // someone besides the player holds on to it
    this._frames = new Array(header.total).fill(null);
    this._decode = decode;
  }

  get complete() {
    return this.arrived === this.total;
  }

  async add(index, jpeg) {
    if (index >= this.total || this._frames[index]) return;
    const bitmap = await this._decode(jpeg);
    if (this.closed || this._frames[index]) return void bitmap.close?.();
    this._frames[index] = bitmap;
    this.arrived += 1;
  }

  /** What the clock needs to know of it. */
  get pace() {
    return { total: this.total, fps: this.header.fps };
  }

  /** Whether the clock has gone on past its end. */
  isPast(index, fps) {
    return !this.rough && frameAt(index, this.header.fps, fps) >= this.total;
  }

  /** The clip's own frame at the clock's index; past its end, its last.
   *  A rough clip holds only the first few frames, and swings to and fro in them. */
  ownIndex(index, fps = this.header.fps) {
    if (!this.rough) return Math.min(fps ? frameAt(index, this.header.fps, fps) : index, this.total - 1);
    if (index < this.total) return index;
    if (this.total === 1) return 0;
    const period = 2 * (this.total - 1);
    const place = index % period;
    return place < this.total ? place : period - place;
  }

  /** Whether the clip can take the screen at this index: the frame itself is there, or all are. */
  ready(index, fps) {
    return this.complete || Boolean(this._frames[this.ownIndex(index, fps)]);
  }

  /** The frame to draw, or the nearest earlier one that has arrived, or null. */
  frameAt(index, fps) {
    for (let i = this.ownIndex(index, fps); i >= 0; i -= 1) if (this._frames[i]) return this._frames[i];
    return null;
  }

  /** The player is done with it. */
  release() {
    if (!this.kept) this.close();
  }

  /** Give the bitmaps back; they are 256 KB each and the collector is in no hurry. */
  close() {
    this.closed = true;
    for (const bitmap of this._frames) bitmap?.close?.();
    this._frames.fill(null);
    this.arrived = 0;
  }
}

function decodeJpeg(jpeg) {
  return createImageBitmap(new Blob([jpeg], { type: "image/jpeg" }));
}
