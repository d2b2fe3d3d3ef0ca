// The transport: play, step and scrub, by hand and by key.

export class Transport {
  /** player: what it drives; onKey: other keys of the desk, key -> action. Keys act only outside text fields. */
  constructor(root, player, onKey) {
    this.$ = (selector) => root.querySelector(selector);
    this._player = player;
    this.$(".play").addEventListener("click", () => player.toggle());
    this.$(".step-back").addEventListener("click", () => player.step(-1));
    this.$(".step-on").addEventListener("click", () => player.step(1));
    this.$(".loop").addEventListener("click", () => this._loop());
    this.$(".scrub").addEventListener("input", (event) => player.seek(Number(event.target.value)));
    for (const frame of root.querySelectorAll(".frame")) frame.addEventListener("click", () => player.toggle());
    document.addEventListener("keydown", (event) => this._key(event, onKey));
  }

  show(index, total, playing) {
    const scrub = this.$(".scrub"), play = this.$(".play");
    scrub.max = total - 1;
    scrub.value = index;
    scrub.style.setProperty("--at", total > 1 ? index / (total - 1) : 0);
    scrub.setAttribute("aria-valuetext", `frame ${index + 1} of ${total}`);
    this.$(".count").textContent = `${index + 1} / ${total}`;
    play.dataset.playing = playing;
    play.setAttribute("aria-label", playing ? "Pause" : "Play");
  }

  _loop() {
    const button = this.$(".loop"), on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", on);
    this._player.loop(on);
  }

  _key(event, onKey) {
    const { key, target } = event, player = this._player;
    if (event.isComposing || event.defaultPrevented || target.closest?.("dialog")) return;
    const held = event.ctrlKey || event.metaKey ? "Ctrl+" : event.altKey ? "Alt+" : "";
    const typing = target.closest?.("input:not([type=range]), textarea, select, [contenteditable]");
    const onScrub = target.closest?.("input[type=range]");         // has its own arrows, and no use for letters
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
    };
    const name = held + (key.length === 1 ? key.toLowerCase() : key);       // the same with caps lock on
    const action = typing && !held ? (key === "Escape" ? () => target.blur() : undefined)
      : onKey[name] ?? (onScrub && key !== " " ? undefined : ours[name]);
    if (!action) return;
    event.preventDefault();
    action();
  }
}
