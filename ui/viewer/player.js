// The canvas player: sides with a clip each, one clock for those on screen. A side keeps its old clip until the new one can be drawn at
// the same time.

import { Clock } from "./clock.js";
import { clockOf } from "./time.js";

export class Player {
  /**
   * sides: { name: canvas }; all are on screen until `show` says which. onSwap(clip): it took its side. onWhole(clip): its last frame
   * arrived and it is there. onTick({ index, total, fps, timed, playing, trim, past }): something a transport bar shows has changed;
   * past: the sides that have ended. onDraw(bitmaps): what each side on screen shows now, by name, all of one moment; null where
   * there is nothing.
   */
  constructor(sides, { onSwap, onWhole, onTick, onDraw, playing = true }) {
    this.clock = new Clock();
    this._sides = Object.fromEntries(Object.entries(sides).map(([name, canvas]) => [
      name, { canvas, context: canvas.getContext("2d", { alpha: false }), current: null, next: null, drawn: null, whole: false },
    ]));
    this._shown = Object.keys(sides);
    this._on = { onSwap, onWhole, onTick, onDraw };
    this.timed = false;     // the clips on screen are not of one length and rate
    this._told = "";
    if (playing) this.clock.play(performance.now());
    this._loop = this._loop.bind(this);
    requestAnimationFrame(this._loop);
  }

  current(side) {
    return this._sides[side].current;
  }

  /** Which sides are on screen; the clock is theirs. */
  show(names) {
    if (names.join() === this._shown.join()) return;
    this._shown = names;
    this._fitClock(performance.now());
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
  trim({ from, to } = { from: 0, to: Infinity }) { this.clock.trimTo(from, to, performance.now()); this.draw(); }
  step(frames) { this.clock.step(frames, performance.now()); this.draw(); }
  seek(index) { this.pause(); this.clock.seek(index, performance.now()); this.draw(); }

  draw(now = performance.now()) {
    this.clock.rest(now);
    for (const side of Object.values(this._sides)) this._swapIfReady(side, this.clock.index(now), now);
    const index = this.clock.index(now);
    for (const name of this._shown) this._drawSide(this._sides[name], index);
    this._on.onDraw?.(Object.fromEntries(this._shown.map((name) => [name, this._sides[name].drawn])));
    const { total, fps, playing, trim } = this.clock;
    const past = this._shown.filter((name) => this._sides[name].current?.isPast(index, fps));
    const state = { index, total, fps, timed: this.timed, playing, trim, past }, told = JSON.stringify(state);
    if (told !== this._told) {
      this._told = told;
      this._on.onTick(state);
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
      if (!next.rough && this._shown.includes(next.side)) this._fitClock(now);
      this._on.onSwap(next);
    }
    if (side.current?.complete && !side.whole) {
      side.whole = true;
      this._on.onWhole(side.current);
    }
  }

  _fitClock(now) {
    const clips = this._shown.map((name) => this._sides[name].current).filter((clip) => clip && !clip.rough).map(({ pace }) => pace);
    if (!clips.length) return;
    this.timed = clips.some(({ total, fps }) => total !== clips[0].total || fps !== clips[0].fps);
    this.clock.fit(clockOf(clips), now);
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
