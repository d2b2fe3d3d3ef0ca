// The canvas player: two sides, one clock. A side keeps its old clip until the new one can be drawn at the same frame index.

import { Clock } from "./clock.js";

export class Player {
  /**
   * sides: { turbo: canvas, full: canvas }. onSwap(clip): it took the screen. onWhole(clip): its last frame arrived and it is on
   * screen. onTick(index, total, playing): something a transport bar shows has changed. onDraw(bitmaps): what each side shows now,
   * by name, all of one moment; null where there is nothing.
   */
  constructor(sides, { onSwap, onWhole, onTick, onDraw, playing = true }) {
    this.clock = new Clock();
    this._sides = Object.fromEntries(Object.entries(sides).map(([name, canvas]) => [
      name, { canvas, context: canvas.getContext("2d", { alpha: false }), current: null, next: null, drawn: null, whole: false },
    ]));
    this._on = { onSwap, onWhole, onTick, onDraw };
    this._told = "";
    if (playing) this.clock.play(performance.now());
    this._loop = this._loop.bind(this);
    requestAnimationFrame(this._loop);
  }

  current(side) {
    return this._sides[side].current;
  }

  /** A clip whose frames are arriving; it shows itself as soon as it can. An older offer is dropped. */
  offer(clip) {
    const side = this._sides[clip.side];
    side.next?.release();
    side.next = clip;
  }

  /** Take a side's picture away. */
  clear(name) {
    const side = this._sides[name];
    side.current?.release();
    side.next?.release();
    side.current = side.next = null;
    side.drawn = null;
    side.context.clearRect(0, 0, side.canvas.width, side.canvas.height);
  }

  toggle() { this.clock.toggle(performance.now()); }
  pause() { this.clock.pause(performance.now()); }
  shuttle(direction) { this.clock.shuttle(direction, performance.now()); }
  loop(on) { this.clock.loops = on; }
  step(frames) { this.clock.step(frames, performance.now()); this.draw(); }
  seek(index) { this.pause(); this.clock.seek(index, performance.now()); this.draw(); }

  draw(now = performance.now()) {
    this.clock.rest(now);
    for (const side of Object.values(this._sides)) this._swapIfReady(side, this.clock.index(now), now);
    const index = this.clock.index(now);
    for (const side of Object.values(this._sides)) this._drawSide(side, index);
    this._on.onDraw?.(Object.fromEntries(Object.entries(this._sides).map(([name, { drawn }]) => [name, drawn])));
    const told = `${index}/${this.clock.total}/${this.clock.playing}`;
    if (told !== this._told) {
      this._told = told;
      this._on.onTick(index, this.clock.total, this.clock.playing);
    }
  }

  _loop(now) {
    this.draw(now);
    requestAnimationFrame(this._loop);
  }

  _swapIfReady(side, index, now) {
    const next = side.next;
    if (next?.ready(index, this.clock.fps)) {
      side.current?.release();
      side.current = next;
      side.next = null;
      side.drawn = null;
      side.whole = false;
      if (!next.rough) this._fitClock(now);
      this._on.onSwap(next);
    }
    if (side.current?.complete && !side.whole) {
      side.whole = true;
      this._on.onWhole(side.current);
    }
  }

  /** The clock runs at the fastest clip's rate, and as long as the longest. */
  _fitClock(now) {
    const clips = Object.values(this._sides).map((side) => side.current).filter((clip) => clip && !clip.rough);
    const fps = Math.max(...clips.map((clip) => clip.header.fps));
    this.clock.fit({ fps, total: Math.max(...clips.map((clip) => Math.ceil((clip.total * fps) / clip.header.fps))) }, now);
  }

  _drawSide(side, index) {
    const bitmap = side.current?.frameAt(index, this.clock.fps);
    if (!bitmap || bitmap === side.drawn) return;
    const { canvas, context } = side;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      canvas.width = bitmap.width;
      canvas.height = bitmap.height;
    }
    context.drawImage(bitmap, 0, 0);
    side.drawn = bitmap;
  }
}
