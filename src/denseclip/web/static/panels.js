// Lists beside the picture.

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const percent = (share) => `${(100 * share).toFixed(share > 0.0995 ? 0 : 1)} %`;

// Words of a class besides its name.
const synonyms = (name, words) => words.filter((word) => word !== name);

// Classes that occur, the largest first; `on` has enter(id), leave(), press(id).
export function showLegend(list, absent, answer, on) {
  const total = answer.size[0] * answer.size[1];
  const classes = answer.classes.map((one, id) => ({ ...one, id }));
  const found = classes.filter((one) => one.area > 0).sort((a, b) => b.area - a.area);
  list.replaceChildren(...found.map((one) => legendRow(one, one.area / total, found[0].area / total, on)));
  const missing = classes.filter((one) => one.area === 0);
  absent.hidden = missing.length === 0;
  const some = missing.slice(0, 30).map((one) => one.name);
  const more = missing.length > 30 ? ` and ${missing.length - 30} more` : "";
  absent.textContent = `Not in the mask: ${some.join(", ")}${more}.`;
}

function legendRow(one, share, largest, on) {
  const swatch = make("i");
  swatch.style.background = one.color;
  const bar = make("meter-bar");
  bar.style.width = `${(100 * share) / largest}%`;
  bar.style.background = one.color;
  const name = make("span", { className: "name" }, one.name);
  const others = synonyms(one.name, one.words);
  if (others.length) name.append(make("small", {}, ` ${others.slice(0, 8).join(", ")}`));
  const title = one.scored ? `${one.area.toLocaleString("en")} pixels; click for the heat map` : `${one.area.toLocaleString("en")} pixels`;
  const button = make("button", { type: "button", title, disabled: !one.scored }, swatch, name, make("b", {}, percent(share)), bar);
  button.dataset.id = one.id;
  button.addEventListener("pointerenter", () => on.enter(one.id));
  button.addEventListener("pointerleave", () => on.leave());
  button.addEventListener("click", () => on.press(one.id));
  return make("li", {}, button);
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
