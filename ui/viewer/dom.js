// Making elements. Text always goes in as text.

export function element(tag, properties = {}, text = "") {
  const made = Object.assign(document.createElement(tag), properties);
  if (text) made.textContent = text;
  return made;
}

export function chip(text, onClick, properties = {}) {
  const made = element("button", { type: "button", className: "chip", ...properties }, text);
  made.addEventListener("click", onClick);
  return made;
}

/** [name, value] pairs into a <dl>; a pair without a name is a value alone. */
export function pairsInto(list, pairs) {
  list.replaceChildren(...pairs.map(([name, value]) => {
    const pair = element("div");
    if (name) pair.append(element("dt", {}, name));
    pair.append(element("dd", {}, value));
    return pair;
  }));
}

export function optionsInto(select, values, chosen) {
  select.replaceChildren(...values.map((value) => element("option", { value, selected: value === chosen }, String(value))));
}

/** 0.0213 -> "21 ms", 0.734 -> "0.73 s", 6.54 -> "6.5 s", 21.3 -> "21 s" */
export function seconds(s) {
  if (s < 0.0995) return `${Math.round(s * 1000)} ms`;
  if (s < 9.95) return `${s.toFixed(s < 0.995 ? 2 : 1)} s`;
  return `${Math.round(s)} s`;
}
