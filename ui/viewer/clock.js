// One clock for both sides: an index that moves at fps and loops, in the trimmed part where there is one. Time comes in as milliseconds,
// so tests can hold it.

export class Clock {
  constructor({ fps = 16, total = 1 } = {}) {
    this.fps = fps;
    this.total = total;
    this.playing = false;
    this.speed = 1;       // of the shuttle: 1, 2, 4, or less than 0 backwards
    this.loops = true;    // else it stands still at the end it runs into
    this.trim = null;     // { from, to }: the indices it plays, both included; null is all of them
    this._index = 0;      // while paused: where it stands; while playing: where it stood at _since
    this._since = 0;
  }

  /** The frame to show at `now`. */
  index(now) {
    if (!this.playing) return this._index;
    const { from, to } = this.part, index = this._index + Math.trunc(((now - this._since) * this.fps * this.speed) / 1000);
    return this.loops ? from + modulo(index - from, to - from + 1) : Math.min(Math.max(index, from), to);
  }

  /** What is played: { from, to }, both included. */
  get part() {
    return this.trim ?? { from: 0, to: this.total - 1 };
  }

  /** The end it plays towards. */
  get _end() {
    return this.speed < 0 ? this.part.from : this.part.to;
  }

  /** Stop where it has run into an end and does not loop. */
  rest(now) {
    if (this.playing && !this.loops && this.index(now) === this._end) this.pause(now);
  }

  play(now) {
    if (!this.playing) {
      const { from, to } = this.part, outside = this._index < from || this._index > to, spent = !this.loops && this._index === this._end;
      this._hold(outside || spent ? from + to - this._end : this._index, now);
    }
    this.playing = true;
  }

  /** J and L of an editing desk: play that way; the same again is twice as fast, up to four times. direction: -1 or 1. */
  shuttle(direction, now) {
    const index = this.index(now), faster = this.playing && Math.sign(this.speed) === direction;
    this.speed = faster ? direction * Math.min(4, 2 * Math.abs(this.speed)) : direction;
    this._hold(index, now);
    this.play(now);
  }

  pause(now) {
    this._hold(this.index(now), now);
    this.playing = false;
    this.speed = 1;
  }

  toggle(now) {
    if (this.playing) this.pause(now);
    else this.play(now);
  }

  /** Stand at a frame, playing or not; beyond the ends it wraps. */
  seek(index, now) {
    this._hold(modulo(index, this.total), now);
  }

  /** One frame on or back; stepping always pauses. */
  step(frames, now) {
    this.pause(now);
    this.seek(this._index + frames, now);
  }

  /** Play only from one index to another, both included; all of them is no trim. What is outside can still be looked at. */
  trimTo(from, to, now) {
    const index = this.index(now);
    this.trim = from <= 0 && to >= this.total - 1 ? null : { from: Math.max(from, 0), to: Math.min(to, this.total - 1) };
    this._hold(this.playing ? Math.min(Math.max(index, this.part.from), this.part.to) : index, now);
  }

  /** Another length or rate: the time is kept, as near as the new length allows, and so is the trim while any of it is left. */
  fit({ fps, total }, now) {
    const old = this.fps, moved = (index) => Math.round((index * fps) / old), index = Math.min(moved(this.index(now)), total - 1), { trim } = this;
    this.fps = fps;
    this.total = total;
    this.trim = null;
    if (trim && moved(trim.from) < total) this.trimTo(moved(trim.from), moved(trim.to), now);
    this._hold(index, now);
  }

  _hold(index, now) {
    this._index = index;
    this._since = now;
  }
}

const modulo = (value, size) => ((value % size) + size) % size;
