// Putting taught words into a prompt: swap the subject, scene, motion, place or camera that stands there, or add one.

/** groups: { subjects | scenes | motions | places | cameras: [{ name, insert, phrases }] }. Returns the new prompt. */
export function put(prompt, groups, group, item) {
  const text = prompt.trim();
  const found = findPhrase(text, groups[group]);
  if (found) return withArticle(text.slice(0, found.start), item.insert, text.slice(found.end));
  if (!text) return group === "subjects" ? withArticle("a ", item.insert, "") : item.insert;
  if (group === "subjects") return withArticle("a ", item.insert, ` ${text}`);
  if (group === "cameras") return `${text}, ${item.insert}`;
  if (group === "places") {
    const subject = findPhrase(text, groups.subjects);
    if (subject) return `${text.slice(0, subject.end)} ${item.insert}${text.slice(subject.end)}`;
  }
  if (group === "motions") {
    const scene = findPhrase(text, groups.scenes);
    if (scene) return `${text.slice(0, scene.start)}${item.insert} ${text.slice(scene.start)}`;
  }
  const comma = text.indexOf(",");
  return comma < 0 ? `${text} ${item.insert}` : `${text.slice(0, comma)} ${item.insert}${text.slice(comma)}`;
}

/** The first place of the longest phrase of a group in the text, by whole words: { start, end } or null. */
export function findPhrase(text, items = []) {
  const low = text.toLowerCase();
  let best = null;
  for (const { phrases } of items) {
    for (const phrase of phrases) {
      if (best && phrase.length <= best.end - best.start) continue;
      const start = wholeWords(low, phrase.toLowerCase());
      if (start >= 0) best = { start, end: start + phrase.length };
    }
  }
  return best;
}

/** The prompt with an unknown word replaced by a known one, everywhere it stands as a word. */
export function replaceWord(prompt, word, known) {
  const low = word.toLowerCase();
  let text = prompt;
  for (let at = wholeWords(text.toLowerCase(), low); at >= 0; at = wholeWords(text.toLowerCase(), low, at + known.length)) {
    text = withArticle(text.slice(0, at), known, text.slice(at + word.length));
  }
  return text;
}

function wholeWords(text, phrase, from = 0) {
  for (let at = text.indexOf(phrase, from); at >= 0; at = text.indexOf(phrase, at + 1)) {
    if (!isLetter(text[at - 1]) && !isLetter(text[at + phrase.length])) return at;
  }
  return -1;
}

const isLetter = (c) => c !== undefined && /[\p{L}\p{N}]/u.test(c);

/** before + word + after, with an "a" or "an" just before it made to fit. */
function withArticle(before, word, after) {
  const fit = /^(UFO|unicorn|eu)/.test(word) ? "a" : /^(SUV|[aeiou])/i.test(word) ? "an" : "a";
  return before.replace(/\b(a|an)(\s+)$/i, (_, article, space) => (article[0] === "A" ? fit[0].toUpperCase() + fit.slice(1) : fit) + space)
    + word + after;
}
