// The binary message of ui/live.py: generation u32 | kind u8 | index u16 | total u16 | JPEG, big-endian.

export const ROUGH = 0, TURBO = 1, FULL = 2, FULL_ROUGH = 3, PICKED_A = 4, PICKED_B = 5;
export const HEADER_BYTES = 9;

export const sideOf = (kind) => ["turbo", "turbo", "full", "full", "a", "b"][kind];
export const isRough = (kind) => kind === ROUGH || kind === FULL_ROUGH;

/** One picture out of a socket message. The JPEG is a view, not a copy. Throws RangeError on a message that is too short. */
export function parseFrame(buffer) {
  const view = new DataView(buffer);
  return {
    generation: view.getUint32(0),
    kind: view.getUint8(4),
    index: view.getUint16(5),
    total: view.getUint16(7),
    jpeg: new Uint8Array(buffer, HEADER_BYTES),
  };
}
