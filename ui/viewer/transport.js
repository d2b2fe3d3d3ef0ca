// The transport: play, step, scrub and trim, by hand and by key.

export class Transport {
  /** player: what it drives; onKey: other keys of the desk, key -> action. Keys act only outside text fields. */
  constructor(root, player, onKey) {
    this.$ = (selector) => root.querySelector(selector);
    this._player = player;
    this.$(".play").addEventListener("click", () => player.toggle());
    this.$(".step-back").addEventListener("click", () => player.step(-1));
    this.$(".step-on").addEventListener("click", () => player.step(1));
    this.$(".loop").addEventListener("click", () => this._loop());
    this.$(".untrim").addEventListener("click", () => this._untrim());
    this.$(".scrub").addEventListener("input", (event) => player.seek(Number(event.target.value)));
    for (const frame of root.querySelectorAll(".frame")) frame.addEventListener("click", () => player.toggle());
    document.addEventListener("keydown", (event) => this._key(event, onKey));
  }

  /** What the player tells. Clips of two lengths or rates have no frame numbers in common: then it is seconds. */
  show({ index, total, fps, timed, playing, trim }) {
    const scrub = this.$(".scrub"), play = this.$(".play"), untrim = this.$(".untrim");
    const share = (at) => (total > 1 ? at / (total - 1) : 0), at = (i) => (timed ? (i / fps).toFixed(2) : i + 1);
    scrub.max = total - 1;
    scrub.value = index;
    scrub.style.setProperty("--at", share(index));
    scrub.style.setProperty("--in", share(trim?.from ?? 0));
    scrub.style.setProperty("--out", share(trim?.to ?? total - 1));
    scrub.setAttribute("aria-valuetext", timed ? `${at(index)} of ${(total / fps).toFixed(2)} seconds` : `frame ${index + 1} of ${total}`);
    this.$(".count").textContent = timed ? `${at(index)} / ${(total / fps).toFixed(2)} s` : `${index + 1} / ${total}`;
    play.dataset.playing = playing;
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
    untrim.hidden = !trim;
    if (!trim) return;
    untrim.firstElementChild.textContent = `${at(trim.from)}–${at(trim.to)}`;
    untrim.setAttribute("aria-label", `Trimmed to ${timed ? "seconds" : "frames"} ${at(trim.from)} to ${at(trim.to)}: play all again`);
  }

  /** The trim begins or ends (end: "in" or "out") at the frame on screen; one that would end before it begins gives up its other end. */
  _trim(end) {
    const { clock } = this._player, index = Number(this.$(".scrub").value), { from, to } = clock.part;
    if (end === "in") this._player.trim({ from: index, to: to < index ? Infinity : to });
    else this._player.trim({ from: from > index ? 0 : from, to: index });
  }

  /** Its button goes with it, so the focus finds another place. */
  _untrim() {
    if (document.activeElement === this.$(".untrim")) this.$(".scrub").focus();
    this._player.trim();
  }

  _loop() {
    const button = this.$(".loop"), on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    this._player.loop(on);
  }

  _key(event, onKey) {
    const { key, target } = event, player = this._player;
    if (event.isComposing || event.defaultPrevented || this.$("dialog[open]")) return;
    const held = event.ctrlKey || event.metaKey ? "Ctrl+" : event.altKey ? "Alt+" : "";
    const typing = target.closest?.("input:not([type=range]), textarea, select, [contenteditable]");
    const scrubs = target.closest?.("input[type=range]") && /^(Arrow|Page|Home|End)/.test(key);       // those are the slider's
    const onButton = target.closest?.("button, a, summary");
    const ours = {
      " ": onButton ? undefined : () => player.toggle(),
      ArrowLeft: () => player.step(event.shiftKey ? -5 : -1),
      ArrowRight: () => player.step(event.shiftKey ? 5 : 1),
      j: () => player.shuttle(-1),
      k: () => player.pause(),
      l: () => player.shuttle(1),
      Home: () => player.seek(0),
      End: () => player.seek(-1),
      "[": () => this._trim("in"),
      "]": () => this._trim("out"),
      "\\": () => this._untrim(),
    };
    const name = held + (key.length === 1 ? key.toLowerCase() : key);       // the same with caps lock on
    const action = typing && !held ? (key === "Escape" ? () => target.blur() : undefined)
      : onKey[name] ?? (scrubs ? undefined : ours[name]);
    if (!action) return;
    event.preventDefault();
    action();
  }
}
