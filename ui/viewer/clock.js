// One clock for both sides: a frame index that moves at fps and loops. Time comes in as milliseconds, so tests can hold it.

export class Clock {
  constructor({ fps = 16, total = 1 } = {}) {
    this.fps = fps;
    this.total = total;
    this.playing = false;
    this.speed = 1;       // of the shuttle: 1, 2, 4, or less than 0 backwards
    this.loops = true;    // else it stands still at the end it runs into
    this._index = 0;      // while paused: where it stands; while playing: where it stood at _since
    this._since = 0;
  }

  /** The frame to show at `now`. */
  index(now) {
    const moved = this.playing ? Math.trunc(((now - this._since) * this.fps * this.speed) / 1000) : 0;
    if (this.loops) return modulo(this._index + moved, this.total);
    return Math.min(Math.max(this._index + moved, 0), this.total - 1);
  }

  /** Stop where it has run into an end and does not loop. */
  rest(now) {
    if (this.playing && !this.loops && this.index(now) === (this.speed < 0 ? 0 : this.total - 1)) this.pause(now);
  }

  play(now) {
    if (!this.playing) {
      const atEnd = this._index === (this.speed < 0 ? 0 : this.total - 1);
      this._hold(!this.loops && atEnd ? this.total - 1 - this._index : this._index, now);
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

  /** Another length or rate: the place is kept, as near as the new length allows. */
  fit({ fps, total }, now) {
    const index = Math.min(this.index(now), total - 1);
    this.fps = fps;
    this.total = total;
    this._hold(index, now);
  }

  _hold(index, now) {
    this._index = index;
    this._since = now;
  }
}

const modulo = (value, size) => ((value % size) + size) % size;
