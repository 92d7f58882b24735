// The words: undo that knows of every change, and suggestions from class sets.

import { make } from "./panels.js";

const MOST = 8; // suggestions at a time
const PAUSE = 600; // milliseconds; changes closer together are undone together

export class Words {
  // sets: {name: [words]}, filled in when it has come; changed(): called after every change.
  constructor(field, list, said, buttons, changed) {
    Object.assign(this, { field, list, said, buttons, changed, sets: {}, active: -1 });
    this.past = [{ text: "", at: 0 }];
    this.future = [];
    this.last = -Infinity;
    field.addEventListener("input", () => (this.#remember(), this.suggest(), changed()));
    field.addEventListener("keydown", (event) => this.#key(event));
    field.addEventListener("blur", () => this.#close());
    buttons.undo.addEventListener("click", () => this.undo());
    buttons.redo.addEventListener("click", () => this.redo());
  }

  get text() {
    return this.field.value;
  }

  // Puts other words there, as a step of its own; they can be undone.
  set(text, at = text.length) {
    if (text === this.text) return;
    this.last = -Infinity;
    this.field.value = text;
    this.field.setSelectionRange(at, at);
    this.#remember();
    this.last = -Infinity;
  }

  // The first words of the page: nothing comes before them.
  start(text) {
    this.field.value = text;
    this.past = [{ text, at: text.length }];
    this.future = [];
    this.#buttons();
  }

  undo() {
    if (this.past.length < 2) return;
    this.future.push(this.past.pop());
    this.#show();
  }

  redo() {
    if (this.future.length === 0) return;
    this.past.push(this.future.pop());
    this.#show();
  }

  add(words) {
    const there = new Set(this.text.split(/[,|\n]/).map((word) => word.trim().toLowerCase()));
    const fresh = words.filter((word) => !there.has(word.toLowerCase()));
    if (fresh.length === 0) return;
    this.set([this.text.trim().replace(/,$/, ""), ...fresh].filter(Boolean).join(", "));
    this.changed();
  }

  #remember() {
    const now = performance.now();
    const state = { text: this.text, at: this.field.selectionStart };
    if (now - this.last < PAUSE && this.past.length > 1) this.past[this.past.length - 1] = state;
    else this.past.push(state);
    if (this.past.length > 200) this.past.shift();
    this.last = now;
    this.future = [];
    this.#buttons();
  }

  #show() {
    const { text, at } = this.past[this.past.length - 1];
    this.last = -Infinity;
    this.field.value = text;
    this.field.setSelectionRange(at, at);
    this.#buttons();
    this.#close();
    this.changed();
  }

  #buttons() {
    this.buttons.undo.disabled = this.past.length < 2;
    this.buttons.redo.disabled = this.future.length === 0;
  }

  // ---- suggestions --------------------------------------------------------------------------------------------

  // [start, end] of the word under the caret.
  #token() {
    const caret = this.field.selectionStart;
    const start = Math.max(...[",", "|", "\n"].map((mark) => this.text.lastIndexOf(mark, caret - 1))) + 1;
    const rest = this.text.slice(caret).search(/[,|\n]/);
    return [start, rest < 0 ? this.text.length : caret + rest];
  }

  suggest() {
    const [start, end] = this.#token();
    const typed = this.text.slice(start, end).trim().toLowerCase();
    const there = new Set((this.text.slice(0, start) + this.text.slice(end)).split(/[,|\n]/).map((word) => word.trim().toLowerCase()));
    const found = typed ? this.#matches(typed, there) : [];
    this.active = -1;
    this.list.replaceChildren(
      ...found.map((one, index) => {
        const option = make("li", { id: `suggestion-${index}`, role: "option" }, one.word, make("small", {}, ` ${one.from}`));
        option.setAttribute("role", "option");
        option.setAttribute("aria-selected", "false");
        option.addEventListener("pointerdown", (event) => (event.preventDefault(), this.#take(one)));
        return option;
      }),
    );
    this.found = found;
    this.list.hidden = found.length === 0;
    this.field.removeAttribute("aria-activedescendant");
    this.said.textContent = found.length ? `${found.length} words suggested; arrow down to choose` : "";
  }

  #matches(typed, there) {
    const [first, second, seen] = [[], [], new Set([typed])];
    for (const [name, words] of Object.entries(this.sets)) {
      if (name.startsWith(typed)) first.push({ word: name, words, from: `class set of ${words.length} words` });
    }
    for (const [name, words] of Object.entries(this.sets)) {
      for (const word of words) {
        const plain = word.toLowerCase();
        if (seen.has(plain) || there.has(plain)) continue;
        const into = plain.startsWith(typed) ? first : plain.includes(` ${typed}`) ? second : null;
        if (into === null) continue;
        seen.add(plain);
        into.push({ word, words: [word], from: `in ${name}` });
      }
    }
    return [...first, ...second].slice(0, MOST);
  }

  #take(one) {
    const [start, end] = this.#token();
    const [before, after] = [this.text.slice(0, start), this.text.slice(end)];
    const head = `${before}${/[,]$/.test(before) ? " " : ""}${one.words.join(", ")}`;
    this.set(head + after, head.length);
    this.#close();
    this.changed();
  }

  #close() {
    this.list.hidden = true;
    this.active = -1;
    this.said.textContent = "";
    this.field.removeAttribute("aria-activedescendant");
  }

  #move(by) {
    const options = [...this.list.children];
    this.active = (this.active + by + options.length + (this.active < 0 && by < 0 ? 1 : 0)) % options.length;
    options.forEach((option, index) => option.setAttribute("aria-selected", index === this.active));
    options[this.active].scrollIntoView({ block: "nearest" });
    this.field.setAttribute("aria-activedescendant", options[this.active].id);
  }

  #key(event) {
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (command && (key === "z" || key === "y")) {
      event.preventDefault();
      return key === "y" || event.shiftKey ? this.redo() : this.undo();
    }
    if (this.list.hidden) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") this.#move(event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Escape") this.#close();
    else if (event.key === "Enter" && this.active >= 0) this.#take(this.found[this.active]);
    else return;
    event.preventDefault();
  }
}
