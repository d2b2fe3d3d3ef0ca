// The filmstrip: every clip kept, newest first; click to have it back, set it against another as A or B, star it, delete it and undo
// that, search.

import { ask, inWords } from "./ask.js";
import { element } from "./dom.js";

const SEARCH_PAUSE_MS = 150;
const UNDO_MS = 8000;

export class History {
  /** onOpen(entry): a person wants that clip back. onPick(entry, "a" or "b"): as one of a pair. onTrouble(line): something to say. */
  constructor(root, { onOpen, onPick, onTrouble }) {
    this.strip = root.querySelector(".strip");
    this.note = root.querySelector(".history-note");
    this.search = root.querySelector(".history-search");
    this.starred = root.querySelector(".history-starred");
    this._on = { onOpen, onPick, onTrouble };
    this._asked = 0;
    this._picked = {};
    this.search.addEventListener("input", () => {
      clearTimeout(this._pause);
      this._pause = setTimeout(() => this.load(), SEARCH_PAUSE_MS);
    });
    this.starred.addEventListener("click", () => {
      this.starred.setAttribute("aria-pressed", !this._starredOnly);
      this.load();
    });
    this.strip.addEventListener("scroll", () => this._nearTheEnd() && this._older());
    this.strip.addEventListener("wheel", (event) => {
      if (event.deltaX || !event.deltaY) return;
      event.preventDefault();
      this.strip.scrollLeft += event.deltaY;
    }, { passive: false });
    this.strip.addEventListener("keydown", (event) => this._key(event));
  }

  get _starredOnly() {
    return this.starred.getAttribute("aria-pressed") === "true";
  }

  /** The list anew, as search and filter say. */
  async load() {
    const page = await this._page();
    if (!page) return;
    this.strip.replaceChildren(...page.entries.map((entry) => this._item(entry)));
    this.strip.scrollLeft = 0;
    this._more = page.more;
    this._say();
  }

  /** A clip was kept just now; one made again takes the place of its old self. */
  add(entry) {
    if (this.search.value.trim() || this._starredOnly) return this.load();
    const same = [...this.strip.children].find(({ entry: old }) => key(old) === key(entry));
    same?.remove();
    const still = this.strip.scrollLeft > 0;
    const item = this._item(entry);
    this.strip.prepend(item);
    if (still) this.strip.scrollLeft += item.offsetWidth;     // what a person looks at does not move
    return this._say();
  }

  /** Mark the clips that are on screen. shown: what makes a clip that one, see `key`; picked: { a, b }, entries or null. */
  mark(shown, picked) {
    this._shown = new Set(shown.map(key));
    this._picked = picked;
    for (const item of this.strip.children) this._mark(item);
  }

  _mark(item) {
    item.dataset.shown = Boolean(this._shown?.has(key(item.entry)));
    for (const button of item.querySelectorAll(".shot-pick")) {
      button.setAttribute("aria-pressed", this._picked[button.dataset.place]?.id === item.entry.id);
    }
  }

  async _page(before) {
    const asked = ++this._asked;
    const query = new URLSearchParams({ q: this.search.value, starred: this._starredOnly });
    if (before !== undefined) query.set("before", before);
    const page = await this._fetch(`/rt/history?${query}`);
    return asked === this._asked ? page : null;
  }

  async _older() {
    if (!this._more || this._loading) return;
    this._loading = true;
    const page = await this._page(this.strip.lastElementChild?.entry.created);
    if (page) {
      this.strip.append(...page.entries.map((entry) => this._item(entry)));
      this._more = page.more;
    }
    this._loading = false;
  }

  _nearTheEnd() {
    return this.strip.scrollWidth - this.strip.scrollLeft - this.strip.clientWidth < 600;
  }

  _say() {
    const filtered = this.search.value.trim() || this._starredOnly;
    this.note.textContent = this.strip.children.length ? "" : filtered ? "Nothing in the history fits." : "Clips you make are kept here.";
  }

  _item(entry) {
    const item = element("li", { className: "shot" });
    item.entry = entry;
    item.dataset.mode = entry.mode;
    const kind = entry.mode === "full" ? "Full render" : "Turbo clip";
    const facts = `${kind}, seed ${entry.seed}, ${when(entry.created)}`;
    const open = element("button", { type: "button", className: "shot-open", title: `${entry.prompt}\n${facts}` });
    open.setAttribute("aria-label", `${entry.prompt}. ${facts}. Open`);
    open.append(element("img", { src: `/rt/history/${entry.id}.jpg`, alt: "", loading: "lazy", decoding: "async", draggable: false }));
    open.setAttribute("aria-keyshortcuts", "A B S Delete");
    open.addEventListener("click", (event) => (event.shiftKey ? this._on.onPick(entry, "b") : this._on.onOpen(entry)));
    const star = element("button", { type: "button", className: "shot-star" }, "★");
    const remove = element("button", { type: "button", className: "shot-delete", title: "Delete (Delete)" }, "×");
    star.addEventListener("click", () => this._star(item));
    remove.addEventListener("click", () => this._delete(item));
    remove.setAttribute("aria-label", `Delete: ${entry.prompt}`);
    item.append(open, star, remove, ...["a", "b"].map((place) => this._pickButton(entry, place)));
    showStar(item);
    this._mark(item);
    return item;
  }

  /** Not a stop of the Tab key: A and B on the clip do the same. */
  _pickButton(entry, place) {
    const letter = place.toUpperCase(), title = `Compare as ${letter} (${letter})`;
    const button = element("button", { type: "button", className: "shot-pick", tabIndex: -1, title }, letter);
    button.dataset.place = place;
    button.setAttribute("aria-label", `Compare as ${letter}: ${entry.prompt}`);
    button.addEventListener("mousedown", (event) => {       // the keys are the viewer's then: B, S and the arrows mean others in the strip
      event.preventDefault();
      document.activeElement?.blur();
    });
    button.addEventListener("click", () => this._on.onPick(entry, place));
    return button;
  }

  async _star(item) {
    const on = !item.entry.starred;
    const done = await this._fetch(`/rt/history/${item.entry.id}/star`, { method: "POST", body: JSON.stringify({ on }) });
    if (!done) return;
    item.entry.starred = done.starred;
    showStar(item);
    if (!on && this._starredOnly) this.load();
  }

  async _delete(item) {
    if (!(await this._fetch(`/rt/history/${item.entry.id}`, { method: "DELETE" }))) return;
    const next = item.nextElementSibling ?? item.previousElementSibling;
    if (item.contains(document.activeElement)) next?.querySelector(".shot-open").focus();
    item.remove();
    this._say();
    const undo = element("button", { type: "button", className: "link" }, "Undo");
    undo.addEventListener("click", () => this._undelete(item.entry.id));
    this.note.replaceChildren(element("span", {}, "Deleted."), undo);
    clearTimeout(this._undo);
    this._undo = setTimeout(() => this._say(), UNDO_MS);
  }

  async _undelete(id) {
    if (await this._fetch(`/rt/history/${id}/undelete`, { method: "POST" })) this.load();
  }

  /** Left and Right go from clip to clip, A and B set it against another, Delete deletes, S stars: the strip is one stop of the Tab key per clip otherwise. */
  _key(event) {
    const item = event.target.closest(".shot");
    if (!item) return;
    const act = {
      ArrowLeft: () => item.previousElementSibling?.querySelector(".shot-open").focus(),
      ArrowRight: () => item.nextElementSibling?.querySelector(".shot-open").focus(),
      Delete: () => this._delete(item),
      s: () => this._star(item),
      a: () => this._on.onPick(item.entry, "a"),
      b: () => this._on.onPick(item.entry, "b"),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  async _fetch(path, options = {}) {
    try {
      return await ask(path, options);
    } catch (error) {
      this._on.onTrouble(inWords(error, "The history cannot be reached."));
      return null;
    }
  }
}

/** What makes two clips the same one: the store's key, as far as the page knows it. */
function key({ prompt, negative_prompt: negative = "", seed, mode, num_steps: steps, sampler, width, height, num_frames: frames, image_sha256: picture = "", preset = "" }) {
  const [words, unwanted] = [prompt, negative].map((text) => text.trim().split(/\s+/).join(" "));
  return JSON.stringify([words, unwanted, seed, mode, steps, sampler, width, height, frames, picture, preset]);
}

function showStar(item) {
  const star = item.querySelector(".shot-star"), on = item.entry.starred;
  star.setAttribute("aria-pressed", on);
  star.setAttribute("aria-label", `${on ? "Take the star off" : "Star"}: ${item.entry.prompt}`);
  star.title = on ? "Take the star off (S)" : "Star (S)";
}

function when(created) {
  return new Date(created * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}
