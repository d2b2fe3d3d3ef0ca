// Clips of the history chosen as A and B of the pair, instead of this shot's turbo and full. One alone stands beside this shot.

const PLACES = ["a", "b"];

export class Picks {
  /** picks: { a, b }, entries chosen before a reload. ask(entry, place): have its clip sent; returns its generation. onChange(). */
  constructor(picks, { ask, onChange }) {
    this._on = { ask, onChange };
    this._picks = Object.fromEntries(PLACES.map((place) => [place, picks?.[place] ? { entry: picks[place] } : null]));
  }

  /** The entries chosen, by place. */
  get entries() {
    return Object.fromEntries(PLACES.map((place) => [place, this._picks[place]?.entry ?? null]));
  }

  /** Whether this shot is not on screen at all. */
  get both() {
    return Boolean(this._picks.a?.clip && this._picks.b?.clip);
  }

  get any() {
    return Boolean(this._picks.a || this._picks.b);
  }

  /** Put a clip of the history in a place; choosing it there again takes it away. */
  choose(place, entry) {
    if (this._picks[place]?.entry.id === entry.id) return this.drop(place);
    this._picks[place] = { ...this._picks[place], entry, generation: this._on.ask(entry, place) };
    return this._on.onChange();
  }

  /** All anew: the connection is, and the server knows of none. */
  askAgain() {
    for (const place of PLACES) {
      const pick = this._picks[place];
      if (pick) pick.generation = this._on.ask(pick.entry, place);
    }
  }

  drop(...places) {
    for (const place of places) this._picks[place] = null;
    this._on.onChange();
  }

  clear() {
    this.drop(...PLACES);
  }

  /** Whether a clip, or an error, is of the entry chosen last. */
  wants(place, generation) {
    return this._picks[place]?.generation === generation;
  }

  /** A clip that has taken its side of the player. */
  shown(clip) {
    if (this._picks[clip.side]) this._picks[clip.side].clip = clip;
  }

  clip(place) {
    return this._picks[place]?.clip ?? null;
  }
}

/** The sides on screen, first and second. there: { a, b, full }, whether each of them is. This shot's turbo clip always is. */
export function sidesOf({ a, b, full }) {
  if (a && b) return ["a", "b"];
  if (a) return ["a", full ? "full" : "turbo"];
  if (b) return ["turbo", "b"];
  return full ? ["turbo", "full"] : ["turbo"];
}

/** What to call a clip: "Turbo", or with other shots beside it "A · Turbo" and its words and seed. letter: "A", "B" or "". */
export function labelOf({ mode, prompt, seed }, letter) {
  const kind = mode === "full" ? "Full" : "Turbo";
  const words = [seed === undefined ? "" : `seed ${seed}`, prompt].filter(Boolean).join(" · ");
  return letter ? { name: `${letter} · ${kind}`, words } : { name: kind, words: "" };
}
