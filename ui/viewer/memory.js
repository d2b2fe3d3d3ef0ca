// What a tab keeps over a reload: its name, by which the server knows its full render, the shot in its controls, the clips it compares.

const PAGE = "rushes-page", SHOT = "rushes-shot", PICKS = "rushes-picks";

export class Memory {
  constructor() {
    this.page = read(PAGE) ?? [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    write(PAGE, this.page);
  }

  get shot() {
    return read(SHOT);
  }

  set shot(shot) {
    write(SHOT, shot);
  }

  get picks() {
    return read(PICKS);
  }

  set picks(picks) {
    write(PICKS, picks);
  }
}

function read(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key)) ?? undefined;
  } catch {
    return undefined;       // storage is off, or holds what is not ours
  }
}

function write(key, value) {
  try {
    sessionStorage.setItem(key, JSON.stringify(value));
  } catch {
    // storage is off: the tab forgets, and works
  }
}
