// The pair in one picture, at the pictures' own size. Pure drawing: no state, no page.

export const AMPLIFY = 4;

/**
 * view: "wipe", "flip", "difference" or "onion". a, b: bitmaps (or canvases); b is drawn to a's size.
 * column: in a wipe, how many columns are a's. second: in a flip, whether b is up.
 */
export function blend(context, view, a, b, { column = 0, second = false } = {}) {
  const { canvas } = context, { width, height } = a;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const put = (image, operation, alpha = 1) => {
    context.globalCompositeOperation = operation;
    context.globalAlpha = alpha;
    context.drawImage(image, 0, 0, width, height);
  };
  if (view === "flip") return put(second ? b : a, "copy");
  put(a, "copy");
  if (view === "onion") return put(b, "source-over", 0.5);
  if (view === "difference") {
    put(b, "difference");
    for (let times = 1; times < AMPLIFY; times *= 2) put(canvas, "lighter");        // doubling: 2, 4
    return undefined;
  }
  context.globalCompositeOperation = "source-over";
  if (column >= width) return undefined;
  context.save();
  context.beginPath();
  context.rect(column, 0, width - column, height);
  context.clip();
  context.drawImage(b, 0, 0, width, height);
  return context.restore();
}

/** The column a seam stands at: seam and look in shares of the square frame the picture is fitted into. And where that column is. */
export function columnAt(seam, { width, height }, { scale, x }) {
  const longer = Math.max(width, height), left = (1 - width / longer) / 2;
  const column = Math.min(Math.max(Math.round(((seam - x) / scale - left) * longer), 0), width);
  return { column, at: x + (left + column / longer) * scale };
}
