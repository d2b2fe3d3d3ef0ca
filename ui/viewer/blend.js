// The pair in one picture, at the pictures' own size. Pure drawing: no state, no page.

export const AMPLIFY = 4;

/** Whether two pictures are of one shape, to a pixel of the smaller one; as turbo_engine/compare.py has it. */
export function sameShape(a, b) {
  return Math.abs(a.width * b.height - b.width * a.height) <= Math.max(a.height, b.height);
}

/** The size both pictures go into: the larger one's; a square, as on the desk, where they are not of one shape. */
export function boxOf(a, b) {
  if (sameShape(a, b)) return a.height > b.height || (a.height === b.height && a.width >= b.width) ? a : b;
  const longest = Math.max(a.width, a.height, b.width, b.height);
  return { width: longest, height: longest };
}

/**
 * view: "wipe", "flip", "difference" or "onion". a, b: bitmaps (or canvases), each fitted into the box of both; where they are of
 * two shapes there is no difference, and nothing is drawn for it.
 * column: in a wipe, how many of the box's columns are a's. second: in a flip, whether b is up.
 */
export function blend(context, view, a, b, { column = 0, second = false } = {}) {
  const { canvas } = context, { width, height } = boxOf(a, b);
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const fitted = sameShape(a, b) ? () => [0, 0, width, height] : (image) => centred(image, width);
  const put = (image, operation, alpha = 1) => {
    context.globalCompositeOperation = operation;
    context.globalAlpha = alpha;
    context.drawImage(image, ...(image === canvas ? [0, 0] : fitted(image)));
  };
  if (view === "flip") return put(second ? b : a, "copy");
  if (view === "difference" && !sameShape(a, b)) return context.clearRect(0, 0, width, height);
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
  context.clearRect(0, 0, width, height);
  context.drawImage(b, ...fitted(b));
  return context.restore();
}

function centred({ width, height }, edge) {
  const scale = edge / Math.max(width, height);
  return [(edge - width * scale) / 2, (edge - height * scale) / 2, width * scale, height * scale];
}

/** The column a seam stands at: seam and look in shares of the frame, of this aspect, that the picture is fitted into. And where that column is. */
export function columnAt(seam, { width, height }, { scale, x }, aspect = 1) {
  const share = Math.min(1, width / height / aspect), left = (1 - share) / 2;
  const column = Math.min(Math.max(Math.round((((seam - x) / scale - left) / share) * width), 0), width);
  return { column, at: x + (left + (column / width) * share) * scale };
}
