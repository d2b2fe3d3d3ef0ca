// Clips of any length and rate on one clock. The sums are those of turbo_engine/resample.py: the plot and the export show what is on screen.

const ROUNDING = 1e-9;

/** What the clock of some clips must be: the fastest one's rate, as long as the longest. clips: [{ total, fps }]. */
export function clockOf(clips) {
  const fps = Math.max(...clips.map((clip) => clip.fps));
  return { fps, total: Math.max(...clips.map(({ total, fps: own }) => ticksOf(total, own, fps))) };
}

/** How many ticks of the clock last as long as a clip; half a tick goes to the even count. */
export function ticksOf(total, fps, clockFps) {
  const exact = (total * clockFps) / fps, down = Math.floor(exact + ROUNDING), over = exact - down;
  if (Math.abs(over - 0.5) < ROUNDING) return Math.max(1, down + (down % 2));
  return Math.max(1, Math.round(exact));
}

/** The frame that is on screen in the middle of a tick; past a clip's end, more than it has. */
export function frameAt(tick, fps, clockFps) {
  return Math.floor(((2 * tick + 1) * fps) / (2 * clockFps) + ROUNDING);
}

/** The first and the last tick at which a clip of `total` frames shows its frames from `first` to `last`, on a clock of `ticks`. */
export function ticksFor(first, last, { total, fps }, { fps: clockFps, total: ticks }) {
  const shown = (tick) => Math.min(frameAt(tick, fps, clockFps), total - 1);
  let from = 0, to = ticks - 1;
  while (from < ticks - 1 && shown(from) < first) from += 1;
  while (to > from && shown(to) > last) to -= 1;
  return { from, to };
}
