// Lists beside the picture.

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const percent = (share) =>
  share > 0 && share < 0.0005 ? "< 0.1 %" : `${(100 * share).toFixed(share > 0.0995 ? 0 : 1)} %`;

// Words of a class besides its name.
const synonyms = (name, words) => words.filter((word) => word !== name);

// Classes that occur, the largest first, and those that do not; `on` has enter(id), leave(), press(id).
export function showLegend(list, absent, answer, unders, on) {
  const total = answer.size[0] * answer.size[1];
  const classes = answer.classes.map((one, id) => ({ ...one, id, under: unders[id], clear: id === answer.background }));
  const found = classes.filter((one) => one.area > 0).sort((a, b) => b.area - a.area);
  list.replaceChildren(...found.map((one) => legendRow(one, one.area / total, found[0].area / total, on)));
  const missing = classes.filter((one) => one.area === 0).sort((a, b) => (b.peak ?? 0) - (a.peak ?? 0));
  absent.hidden = missing.length === 0;
  const shown = missing.slice(0, 30).map((one) => absentRow(one, on));
  if (missing.length > 30) shown.push(make("li", { className: "hint" }, `and ${missing.length - 30} more`));
  absent.querySelector("ul").replaceChildren(...shown);
}

// What was found and what not, for who listens.
export function spoken(answer) {
  const total = answer.size[0] * answer.size[1];
  const found = answer.classes.filter((one) => one.area > 0).sort((a, b) => b.area - a.area);
  const told = found.slice(0, 5).map((one) => `${one.name} ${percent(one.area / total)}`);
  const more = found.length > 5 ? ` and ${found.length - 5} more` : "";
  const absent = answer.classes.length - found.length;
  return `${told.join(", ")}${more}${absent ? `; ${absent} not in the picture` : ""}.`;
}

function swatch(one) {
  const element = make("i", { className: one.clear ? "clear" : "" });
  element.style.setProperty("--color", one.color);
  const [r, g, b] = one.under;
  const gray = Math.round(0.213 * r + 0.715 * g + 0.072 * b); // as the filter saturate() weighs
  element.style.setProperty("--under", `rgb(${r} ${g} ${b})`);
  element.style.setProperty("--gray", `rgb(${gray} ${gray} ${gray})`);
  return element;
}

function pressed(one, title, on, ...children) {
  const button = make("button", { type: "button", title, disabled: !one.scored }, ...children);
  button.dataset.id = one.id;
  for (const event of ["pointerenter", "focus"]) button.addEventListener(event, () => on.enter(one.id));
  for (const event of ["pointerleave", "blur"]) button.addEventListener(event, () => on.leave());
  button.addEventListener("click", () => on.press(one.id));
  return make("li", {}, button);
}

function legendRow(one, share, largest, on) {
  const mark = swatch(one);
  const bar = make("span", { className: "bar-of" });
  bar.style.width = `${(100 * share) / largest}%`;
  bar.style.background = one.clear ? "var(--soft)" : one.color;
  const name = make("span", { className: "name" }, one.name);
  const others = synonyms(one.name, one.words);
  if (others.length) name.append(make("small", {}, ` ${others.slice(0, 8).join(", ")}`));
  const pixels = `${one.area.toLocaleString("en")} pixels`;
  return pressed(one, one.scored ? `${pixels}; click for the heat map` : pixels, on, mark, name, make("b", {}, percent(share)), bar);
}

function absentRow(one, on) {
  const told = one.peak === null ? "" : `at most ${percent(one.peak)} likely`;
  const row = pressed(one, "not in the picture; click for the heat map", { ...on, enter() {}, leave() {} },
    make("i", { className: "none" }), make("span", { className: "name" }, one.name), make("b", {}, told));
  return row;
}

export function showPixel(list, hint, pixel) {
  hint.textContent = `Row ${pixel.row}, column ${pixel.column}: ${pixel.class}. Score and share of each word, before refinement.`;
  list.replaceChildren(
    ...pixel.words.map((one) => {
      const name = make("span", { className: "name" }, one.word);
      if (one.owner !== one.word) name.append(make("small", {}, ` for ${one.owner}`));
      const row = make("li", {}, name, make("span", {}, one.score.toFixed(3)), make("span", {}, percent(one.share)));
      const filled = `${(100 * one.share).toFixed(1)}%`;
      row.style.background = `linear-gradient(to right, color-mix(in srgb, var(--accent) 18%, transparent) ${filled}, transparent ${filled})`;
      return row;
    }),
  );
}

export function showProtocol(list, protocol) {
  list.replaceChildren(
    ...Object.entries(protocol).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, String(value))]),
  );
}

export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
