// Asking the server for JSON.

/** The answer. Throws an Error in the server's own plain words, a TypeError where there is no connection. */
export async function ask(path, options = {}) {
  const reply = await fetch(path, { headers: { "Content-Type": "application/json" }, ...options });
  const body = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(typeof body.detail === "string" ? body.detail : { 403: "This is not for guests.", 413: "This file is too large." }[reply.status] ?? "The app did not answer.");
  return body;
}

/** What to tell of what `ask` threw. unreached: where there is no connection. */
export const inWords = (error, unreached) => (error instanceof TypeError ? unreached : error.message);
