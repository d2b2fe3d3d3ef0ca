// One clock for both sides: a frame index that moves at fps and loops. Time comes in as milliseconds, so tests can hold it.

export class Clock {
  constructor({ fps = 16, total = 1 } = {}) {
    this.fps = fps;
    this.total = total;
    this.playing = false;
    this._index = 0;      // while paused: where it stands; while playing: where it stood at _since
    this._since = 0;
  }

  /** The frame to show at `now`. */
  index(now) {
    const moved = this.playing ? Math.floor(((now - this._since) * this.fps) / 1000) : 0;
    return modulo(this._index + moved, this.total);
  }

  play(now) {
    if (!this.playing) this._hold(this._index, now);
    this.playing = true;
  }

  pause(now) {
    this._hold(this.index(now), now);
    this.playing = false;
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
