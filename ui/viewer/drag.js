// Following a pressed pointer over a picture. A press that hardly moves stays a click; after a drag there is no click.

const STILL_PX = 3;

/**
 * area: holds the .frame elements. wants(event): whether this press is ours to follow.
 * move({ x, y, dx, dy }): where the pointer is and how far it came since the last call, in shares of the frame's size.
 */
export function followDrags(area, { wants, move }) {
  let press = null, dragged = false;

  area.addEventListener("pointerdown", (event) => {
    dragged = false;
    const frame = event.target.closest(".frame");
    press = frame && event.button === 0 && wants(event) ? { frame, id: event.pointerId, at: place(event, frame), from: event } : null;
  });
  area.addEventListener("pointermove", (event) => {
    if (!press || event.pointerId !== press.id) return;
    if (!dragged) {
      if (Math.hypot(event.clientX - press.from.clientX, event.clientY - press.from.clientY) < STILL_PX) return;
      dragged = true;
      press.frame.setPointerCapture(press.id);
    }
    const at = place(event, press.frame);
    move({ ...at, dx: at.x - press.at.x, dy: at.y - press.at.y });
    press.at = at;
  });
  for (const end of ["pointerup", "pointercancel"]) area.addEventListener(end, () => { press = null; });
  area.addEventListener("click", (event) => {
    if (dragged) event.stopPropagation();
    dragged = false;
  }, { capture: true });
}

/** Where an event is on a frame, in shares of its size from the top left. */
export function place(event, frame) {
  const box = frame.getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height };
}
