// Keys, the list of them, and light or dark.

import { make } from "./panels.js";

const WORDS = [
  ["Ctrl Z, Ctrl Shift Z", "in the words: undo, redo"],
  ["↓ ↑ Enter, Esc", "in the words: choose a suggestion, close the list"],
  ["↑ ↓ ← →", "on the picture: move the point; with Shift by one pixel"],
  ["Enter", "on the picture: the words of the point"],
  ["Wheel, drag, pinch", "zoom and move the picture"],
];

// actions: [key, what it does, function] in the order of the list.
export function setKeys(actions, $) {
  const rows = [...actions, ["?", "this list"], ...WORDS];
  $("key-list").replaceChildren(
    ...rows.flatMap(([keys, text]) => [make("dt", {}, make("kbd", {}, keys)), make("dd", {}, text)]),
  );
  const used = $("key-switch");
  used.checked = localStorage.getItem("denseclip-keys") !== "off";
  used.addEventListener("change", () => localStorage.setItem("denseclip-keys", used.checked ? "on" : "off"));
  const help = () => $("help").showModal();
  $("keys").addEventListener("click", help);
  $("help-close").addEventListener("click", () => $("help").close());
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !used.checked || $("help").open) return;
    if (event.target.closest("textarea, select, input:not([type=radio], [type=checkbox])")) return;
    const action = event.key === "?" ? help : actions.find(([key]) => key === event.key)?.[2];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

const THEMES = { auto: "light dark", light: "light", dark: "dark" };

export function setTheme(button) {
  let theme = localStorage.getItem("denseclip-theme") ?? "auto";
  const show = () => {
    document.documentElement.style.colorScheme = THEMES[theme] ?? THEMES.auto;
    button.textContent = `Theme: ${theme}`;
  };
  const next = () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    localStorage.setItem("denseclip-theme", theme);
    show();
  };
  button.addEventListener("click", next);
  show();
  return next;
}
