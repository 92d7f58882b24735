// Heat maps of several words beside each other, on one scale.

import { make } from "./panels.js";
import { heatTable, paint } from "./stage.js";

export const MOST = 6;

export class Comparison {
  // base: the canvas with the picture; fetch(id): the heat map of a class; changed(): the choice was changed.
  constructor(grid, choice, base, fetch, changed) {
    Object.assign(this, { grid, choice, base, fetch, changed });
    this.chosen = []; // names, so that they stay when other words come and go
  }

  // Offers the classes that have scores; those chosen before stay, at first the largest three.
  offer(classes) {
    const scored = classes.map((one, id) => ({ ...one, id })).filter((one) => one.scored);
    const names = new Set(scored.map((one) => one.name));
    this.chosen = this.chosen.filter((name) => names.has(name));
    const largest = [...scored].sort((a, b) => b.area - a.area).map((one) => one.name);
    for (const name of largest) if (this.chosen.length < Math.min(3, largest.length) && !this.chosen.includes(name)) this.chosen.push(name);
    this.classes = scored;
    this.choice.replaceChildren(
      ...scored.slice(0, 80).map((one) => {
        const box = make("input", { type: "checkbox", checked: this.chosen.includes(one.name) });
        box.addEventListener("change", () => this.#choose(one.name, box.checked));
        return make("label", {}, box, ` ${one.name}`);
      }),
    );
    this.#limit();
  }

  #choose(name, is) {
    this.chosen = is ? [...this.chosen, name] : this.chosen.filter((other) => other !== name);
    this.#limit();
    this.changed();
  }

  #limit() {
    const full = this.chosen.length >= MOST;
    for (const box of this.choice.querySelectorAll("input")) box.disabled = full && !box.checked;
  }

  // Draws them; false if another question came meanwhile, so that `current` says no.
  async draw(colors, size, current) {
    const shown = this.chosen.map((name) => this.classes.find((one) => one.name === name)).filter(Boolean);
    const heats = await Promise.all(shown.map((one) => this.fetch(one.id).catch((error) => ({ error: error.message }))));
    if (!current()) return false;
    const table = heatTable(colors);
    this.grid.replaceChildren(
      ...shown.map((one, index) => {
        const canvas = make("canvas", { width: this.base.width, height: this.base.height });
        const over = make("canvas", { width: this.base.width, height: this.base.height, className: "over" });
        canvas.getContext("2d").drawImage(this.base, 0, 0);
        const { error, plane, low, high } = heats[index];
        if (!error) paint(over, plane, size, table);
        const area = one.area ? `${((100 * one.area) / (size[0] * size[1])).toFixed(1)} %` : "not in the picture";
        const scale = error ?? (low === 0 && high === 1 ? "" : `, ${low.toFixed(3)} to ${high.toFixed(3)}`);
        const text = make("figcaption", {}, make("b", {}, one.name), make("span", {}, ` ${area}${scale}`));
        for (const each of [canvas, over]) each.setAttribute("aria-hidden", "true");
        return make("figure", {}, make("div", {}, canvas, over), text);
      }),
    );
    return true;
  }
}
