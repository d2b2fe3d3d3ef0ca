// What was asked for, by generation: which clip is the newest wish's, and how long after the keystroke it came.

export class Asked {
  constructor() {
    this._last = 0;
    this._newest = null;        // the newest live edit: { generation, at, same?, firstMs?, wholeMs? }
    this._edits = new Map();    // generation -> that, while its clip may still come
  }

  /** A number for the next wish of any kind. */
  next() {
    this._last += 1;
    return this._last;
  }

  /** A generation from before a reload: later ones are larger. */
  after(generation) {
    this._last = Math.max(this._last, generation);
  }

  /** A live edit. at: when its key was pressed; undefined where that is no measure. Returns: its generation. */
  edit(at) {
    const generation = this.next();
    this._newest = { generation, at };
    this._edits.set(generation, this._newest);
    return generation;
  }

  /** An edit means what an older one meant: its clip counts for both. */
  same(generation, as) {
    const edit = this._edits.get(generation);
    if (edit) edit.same = as;
  }

  /** Whether a generation is the one asked for last, or means the same as it. */
  isCurrent(generation) {
    return this._newest?.generation === generation || this._newest?.same === generation;
  }

  /** Its first picture is on screen. */
  pictured(generation) {
    const edit = this._edits.get(generation);
    if (edit?.at !== undefined) edit.firstMs ??= performance.now() - edit.at;
  }

  /** All of its clip is there; older ones will not be missed. Returns: { firstMs, wholeMs }, undefined where nothing was measured. */
  whole(generation) {
    const edit = this._edits.get(generation);
    for (const older of this._edits.keys()) if (older < generation) this._edits.delete(older);
    if (edit?.firstMs !== undefined) edit.wholeMs = performance.now() - edit.at;
    return edit?.wholeMs === undefined ? undefined : edit;
  }

  /** Nothing asked for so far will come. */
  forget() {
    this._newest = null;
    this._edits.clear();
  }
}
