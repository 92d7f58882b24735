// The page: what is shown, and what happens when something is touched.

import * as api from "./api.js";
import { Comparison } from "./compare.js";
import { setKeys, setTheme } from "./keys.js";
import { make, save, showLegend, showPixel, showProtocol, spoken } from "./panels.js";
import { Stage } from "./stage.js";
import { Words } from "./words.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage($("stage"));
const words = new Words($("words"), $("suggestions"), $("suggested"), { undo: $("undo"), redo: $("redo") }, () => askSoon(250));
const comparison = new Comparison($("comparison"), $("compared").querySelector("div"), stage.base, (id) => api.heat(id, $("heat-scale").value), () => paint());
let facts; // about the server
let picture = null; // {name, height, width, number}
let answer = null; // header and plane of the last answer
let shows = 0; // counts pictures, so that late answers about an earlier one are dropped

// ---- the question -------------------------------------------------------------------------------------------

const BACKGROUNDS = {
  "": "Some 650 other words compete with yours; where one of them fits clearly better is background.",
  none: "Also what none of the words fits gets the nearest of them.",
  usual: "Things that are often behind others compete with your words.",
  words: "What fits these words is background.",
};
const SLIDERS = ["threshold", "pd", "ks"];

function question() {
  const value = (id) => Number($(id).value);
  const refine = ["pd", "ks"].filter((id) => value(id) > 0).map((id) => `${id}=${value(id)}`);
  const edges = $("edges").value;
  return {
    words: $("words").value,
    background: $("background-kind").value === "words" ? $("background").value.trim() || "none" : $("background-kind").value,
    threshold: value("threshold") || null,
    refine: edges === "guided" && refine.length === 0 ? "" : [...refine, edges].filter((part) => part !== "none").join("+") || "none",
    preset: $("preset").value,
    size: value("size"),
    templates: $("templates").value,
  };
}

function fill(asked) {
  words.start(asked.words);
  const kinds = [...$("background-kind").options].map((option) => option.value);
  $("background-kind").value = kinds.includes(asked.background) ? asked.background : "words";
  $("background").value = asked.background;
  for (const id of ["preset", "size", "templates"]) $(id).value = asked[id];
  $("threshold").value = asked.threshold ?? 0;
  const refine = Object.fromEntries((asked.refine || "").split("+").map((part) => part.split("=")));
  for (const id of ["pd", "ks"]) $(id).value = refine[id] ?? 0;
  $("edges").value = ["guided", "pamr"].find((one) => one in refine) ?? (asked.refine ? "none" : "guided");
  label();
}

function label() {
  for (const id of SLIDERS) {
    const value = Number($(id).value);
    $(id).nextElementSibling.textContent = value ? value.toFixed(2) : "off";
  }
  for (const one of document.querySelectorAll("[data-switch]")) one.checked = Number($(one.dataset.switch).value) > 0;
  $("background").hidden = $("background-kind").value !== "words";
  $("background-hint").textContent = BACKGROUNDS[$("background-kind").value];
  $("preset-hint").textContent = facts.presets[$("preset").value] ?? "";
}

// ---- asking: one question at a time, and only the latest ------------------------------------------------------

let wanted = false;
let asking = false;
let timer;

function askSoon(delay) {
  clearTimeout(timer);
  timer = setTimeout(ask, delay);
}

async function ask() {
  clearTimeout(timer);
  wanted = true;
  if (asking) return;
  asking = true;
  while (wanted && picture !== null) {
    wanted = false;
    await askOnce();
  }
  asking = false;
  busy(false);
}

async function askOnce() {
  const show = shows;
  const start = performance.now();
  busy(true);
  try {
    const made = await api.ask(question());
    if (show !== shows) return;
    answer = made;
    complain(null);
    await showAnswer();
    if (show !== shows) return;
    const [took, whole] = [time(made.milliseconds), time(performance.now() - start)];
    const how = made.encoded ? "the network looked at the picture" : "from cached features";
    say(`${picture.name}, ${picture.width} × ${picture.height}. Answered in ${took}, ${how}; shown after ${whole}.`, spoken(answer));
  } catch (error) {
    if (show === shows) await failed(error, "words-alert");
  }
}

async function showAnswer() {
  const unders = stage.under(answer.plane, answer.classes.length);
  showLegend($("legend"), $("absent"), answer, unders, {
    enter: (id) => view() === "mask" && paintMask(id),
    leave: () => view() === "mask" && paintMask(),
    press: (id) => showHeatOf(id),
  });
  const scored = answer.classes.flatMap((one, id) => (one.scored ? [make("option", { value: id }, one.name)] : []));
  const before = $("heat-word").selectedOptions[0]?.textContent;
  $("heat-word").replaceChildren(...scored);
  const same = scored.find((option) => option.textContent === before);
  if (same) same.selected = true;
  comparison.offer(answer.classes);
  showProtocol($("protocol"), answer.protocol);
  $("file-name").textContent = picture.name;
  showCode();
  await Promise.all([paint(), stage.spotted && showSpot()]);
}

// ---- the picture and its views --------------------------------------------------------------------------------

const view = () => document.querySelector("input[name=view]:checked").value;

function paintMask(only = null) {
  const colors = answer.classes.map((one, id) => (id === answer.background ? null : one.color));
  stage.paintMask(answer.plane, colors, answer.names, only);
}

async function paint() {
  const shown = view();
  const [heated, compared] = [shown === "heat", shown === "compare"];
  $("stage").dataset.view = shown;
  $("heat-choice").hidden = !heated;
  $("scale-choice").hidden = $("scale").hidden = !heated && !compared;
  $("stage").hidden = compared;
  $("comparison").hidden = $("compared").hidden = !compared;
  for (const button of document.querySelectorAll("#legend button, #absent button")) {
    button.setAttribute("aria-pressed", heated && button.dataset.id === $("heat-word").value);
  }
  if (answer === null || shown === "picture") return stage.clear();
  if (shown === "mask") return paintMask();
  const [asked, id, scale] = [answer, $("heat-word").value, $("heat-scale").value];
  const current = () => answer === asked && view() === shown && $("heat-word").value === id && $("heat-scale").value === scale;
  if (compared) {
    if (await comparison.draw(facts.heat, asked.size, current)) showScale("each word", scale, 0, 1);
    return;
  }
  const heat = await api.heat(id, scale).catch(async (error) => (await failed(error), null));
  if (!current()) return;
  if (heat === null) return stage.clear();
  complain(null);
  stage.paintHeat(heat.plane, facts.heat);
  showScale(heat.name, scale, heat.low, heat.high);
}

// What the colors of a heat map stand for.
function showScale(name, scale, low, high) {
  const whole = scale === "probability";
  const each = name === "each word";
  $("scale-name").textContent = whole ? `${name}: probability` : `${name}: score, contrast stretched to this picture`;
  [$("low").textContent, $("high").textContent] =
    whole ? ["0", "1"] : each ? ["its lowest", "its highest"] : [low.toFixed(3), high.toFixed(3)];
}

function showHeatOf(id) {
  const same = view() === "heat" && $("heat-word").value === String(id);
  document.querySelector(`input[name=view][value=${same ? "mask" : "heat"}]`).checked = true;
  $("heat-word").value = id;
  paint();
}

async function showSpot() {
  try {
    const pixel = await api.pixel(...stage.spotted);
    showPixel($("pixel"), $("pixel-hint"), pixel);
  } catch (error) {
    await failed(error);
  }
}

async function load(get) {
  const show = ++shows;
  busy(true);
  try {
    const shown = await get();
    const blob = await api.download("picture.jpg");
    if (show !== shows) return;
    picture = shown;
    await stage.show(blob, shown.height, shown.width);
    answer = null;
    stage.clear();
    complain(null);
    $("pixel").replaceChildren();
    $("pixel-hint").textContent = "Click into the picture to see which words fit there.";
    await showRoll();
    if (shown.words) words.set(facts.model.words ?? shown.words);
    await ask();
  } catch (error) {
    if (show === shows) await failed(error);
    busy(false);
  }
}

// ---- pictures in a row ----------------------------------------------------------------------------------------

let roll = []; // {number, name, address} of the visitor's own pictures

async function openFiles(files) {
  const [given, refused] = [[...files], []];
  if (given.length === 0) return;
  busy(true);
  let first = null;
  for (const [index, file] of given.entries()) {
    if (given.length > 1) say(`opening ${index + 1} of ${given.length} pictures`);
    try {
      if (file.size > facts.limits.upload) throw new api.Refused(`${file.name} has ${(file.size / 2 ** 20).toFixed(0)} MiB, more than ${facts.limits.upload / 2 ** 20}; make it smaller.`);
      const shown = await api.upload(file);
      first ??= shown;
      roll.push(await thumbnail(shown));
    } catch (error) {
      if (!(error instanceof api.Refused)) throw error;
      refused.push(error);
    }
  }
  if (first !== null) await load(() => api.turn(first.number));
  else busy(false);
  for (const error of refused.slice(0, 1)) await failed(error);
}

const thumbnail = async ({ number, name }) => ({ number, name, address: URL.createObjectURL(await api.small(number)) });

async function showRoll() {
  const row = $("roll");
  row.hidden = roll.length === 0;
  row.replaceChildren(
    ...roll.map(({ number, name, address }) => {
      const button = make("button", { type: "button", title: name }, make("img", { src: address, alt: name }));
      button.setAttribute("aria-pressed", number === picture.number);
      button.addEventListener("click", () => load(() => api.turn(number)));
      return button;
    }),
  );
  for (const [index, button] of [...$("examples").children].entries()) {
    button.setAttribute("aria-pressed", picture.number === -1 - index);
  }
}

// The next picture of the row that is shown, or the one before.
function neighbor(by) {
  if (picture === null) return;
  if (picture.number < 0) return turnTo((facts.examples - 1 - picture.number + by) % facts.examples);
  const at = roll.findIndex((one) => one.number === picture.number);
  const { number } = roll[(at + by + roll.length) % roll.length];
  load(() => api.turn(number));
}

const turnTo = (example) => load(() => api.choose(example));

// ---- messages -------------------------------------------------------------------------------------------------

const say = (text, spoken = "") => $("status").replaceChildren(text, make("span", { className: "unseen" }, ` ${spoken}`));
const time = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
const busy = (is) => $("stage").setAttribute("aria-busy", is);

// Beside what is wrong: under the words or under the picture. No message clears both.
function complain(message, where = "alert") {
  for (const id of ["alert", "words-alert"]) {
    const shown = message !== null && id === where;
    $(id).hidden = !shown;
    $(id).textContent = shown ? message : "";
  }
  $("words").setAttribute("aria-invalid", message !== null && where === "words-alert");
  $("stage").classList.toggle("stale", message !== null && answer !== null);
}

async function failed(error, where) {
  if (!(error instanceof api.Refused)) throw error;
  complain(error.message[0].toUpperCase() + error.message.slice(1), where);
  if (error.status === 410) await api.openSession();
}

// ---- taking it along ------------------------------------------------------------------------------------------

const code = () => document.querySelector("input[name=code]:checked").value;
const showCode = () => ($("code").textContent = answer ? answer[code()] : "");

async function take(button) {
  const file = button.dataset.file;
  try {
    const blob = await api.download(file);
    const stem = picture.name.replace(/\.[^.]*$/, "") || picture.name;
    save(blob, { "mask.png": answer?.mask_name, "picture.png": `${stem}.png` }[file] ?? `${stem}-${file}`);
  } catch (error) {
    await failed(error);
  }
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("code").textContent);
    $("copy").textContent = "Copied";
    setTimeout(() => ($("copy").textContent = "Copy"), 1500);
  } catch {
    getSelection().selectAllChildren($("code")); // not allowed here: the visitor copies what is selected
  }
}

// ---- wiring ---------------------------------------------------------------------------------------------------

function wire() {
  $("background").addEventListener("input", () => askSoon(250));
  for (const id of SLIDERS) $(id).addEventListener("input", () => (label(), askSoon(60)));
  for (const id of ["preset", "size", "templates", "edges", "background-kind"]) $(id).addEventListener("change", () => (label(), ask()));
  for (const radio of document.querySelectorAll("input[name=view]")) radio.addEventListener("change", paint);
  for (const radio of document.querySelectorAll("input[name=code]")) radio.addEventListener("change", showCode);
  for (const id of ["heat-word", "heat-scale"]) $(id).addEventListener("change", paint);
  for (const one of document.querySelectorAll("[data-switch]")) one.addEventListener("change", () => turnOn(one));
  $("sets").addEventListener("change", () => (words.add(words.sets[$("sets").value] ?? []), ($("sets").value = "")));
  $("opacity").addEventListener("input", opacity);
  $("open").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", async () => (await openFiles($("file").files), ($("file").value = "")));
  $("copy").addEventListener("click", copy);
  for (const button of document.querySelectorAll("[data-file]")) button.addEventListener("click", () => take(button));
  $("frame").addEventListener("pointermove", hover);
  $("frame").addEventListener("pointerleave", () => ($("tip").hidden = true));
  $("frame").addEventListener("click", pick);
  $("frame").addEventListener("dblclick", (event) => stage.zoom(2, event.offsetX, event.offsetY));
  $("frame").addEventListener("keydown", walk);
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(button.dataset.zoom));
  addEventListener("dragover", (event) => (event.preventDefault(), $("stage").classList.add("dropping")));
  addEventListener("dragleave", (event) => event.relatedTarget ?? $("stage").classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("stage").classList.remove("dropping");
    openFiles(event.dataTransfer.files);
  });
  addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) event.preventDefault();
    openFiles(event.clipboardData.files);
  });
  setKeys(
    [
      ["m", "mask", () => look("mask")],
      ["h", "heat map", () => look("heat")],
      ["c", "words beside each other", () => look("compare")],
      ["p", "the picture alone", () => look("picture")],
      ["n", "next picture", () => neighbor(1)],
      ["b", "the picture before", () => neighbor(-1)],
      ["o", "open pictures", () => $("file").click()],
      ["w", "write words", () => $("words").focus()],
      ["u", "undo a change of the words", () => words.undo()],
      ["r", "redo it", () => words.redo()],
      ["+", "zoom in", () => zoom("in")],
      ["-", "zoom out", () => zoom("out")],
      ["0", "whole picture", () => zoom("fit")],
      ["d", "light or dark", setTheme($("theme"))],
    ],
    $,
  );
}

const opacity = () => document.body.style.setProperty("--opacity", $("opacity").value);
const zoom = (how) => (how === "fit" ? stage.fit() : stage.zoom(how === "in" ? 1.5 : 1 / 1.5));

function look(shown) {
  document.querySelector(`input[name=view][value=${shown}]`).checked = true;
  paint();
}

// Refinement by switch: off, or the threshold that was there before, at first the usual one.
function turnOn(one) {
  const slider = $(one.dataset.switch);
  if (!one.checked) one.dataset.on = slider.value;
  slider.value = one.checked ? one.dataset.on : 0;
  label();
  ask();
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

function walk(event) {
  if (event.key === "Enter" && answer !== null) {
    if (stage.spotted === null) stage.step(0, 0, true);
    showSpot();
  } else if (event.key in STEPS) stage.step(...STEPS[event.key], event.shiftKey);
  else return;
  event.preventDefault();
}

function hover(event) {
  const at = answer && stage.spot(event);
  $("tip").hidden = !at;
  if (!at) return;
  const box = $("stage").getBoundingClientRect();
  $("tip").textContent = answer.classes[answer.plane[at[0] * answer.size[1] + at[1]]].name;
  $("tip").style.left = `${event.clientX - box.left}px`;
  $("tip").style.top = `${event.clientY - box.top}px`;
  $("tip").classList.toggle("flip", event.clientX - box.left > box.width / 2);
}

function pick(event) {
  const at = answer && stage.moved < 5 && stage.spot(event);
  if (!at) return;
  stage.mark(at);
  showSpot();
}

function furnish() {
  const model = facts.model;
  $("model").textContent = model.text;
  $("note").hidden = model.note === null;
  if (model.note) $("note").replaceChildren(model.note, " ", make("kbd", {}, model.instead));
  const options = (entries) => entries.map(([value, text]) => make("option", { value }, text));
  $("preset").append(...options(Object.keys(facts.presets).map((name) => [name, name])));
  $("size").append(...options(facts.sizes.map((side) => [side, `${side} pixels`])));
  $("preset").value = facts.preset;
  $("size").value = 512;
  for (let index = 0; index < facts.examples; index++) {
    const image = make("img", { src: `/api/example/${index}.jpg`, alt: `example ${index + 1}` });
    const button = make("button", { type: "button" }, image);
    button.addEventListener("click", () => turnTo(index));
    $("examples").append(button);
  }
  const ramp = $("ramp").getContext("2d");
  facts.heat.forEach((color, x) => ((ramp.fillStyle = color), ramp.fillRect(x, 0, 1, 1)));
}

async function begin() {
  facts = await api.about();
  furnish();
  wire();
  opacity();
  label();
  const before = await api.restore();
  if (before?.question) fill(before.question);
  roll = await Promise.all((before?.roll ?? []).map(thumbnail));
  if (before?.picture) await load(async () => before.picture);
  else await turnTo(0);
  if (!before?.question) words.start(words.text);
  words.sets = await api.sets();
  $("sets").append(...Object.entries(words.sets).map(([value, all]) => make("option", { value }, `${value} (${all.length})`)));
}

begin().catch(failed);
