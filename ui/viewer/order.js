// Clips may come late, twice or out of turn: a side never goes back to an older one, nor from a whole clip to its rough one.

export class Order {
  constructor() {
    this._newest = {};
  }

  /** Whether a clip may still come on its side; if so, older ones may not any more. The same one again may: its pictures can have been lost. */
  admits(side, generation, rough) {
    const rank = 2 * generation + (rough ? 0 : 1);
    if (rank < (this._newest[side] ?? 0)) return false;
    this._newest[side] = rank;
    return true;
  }
}
