// The page: what is shown, and what happens when something is touched.

import * as api from "./api.js";
import { make, save, showLegend, showPixel, showProtocol } from "./panels.js";
import { Stage } from "./stage.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage($("stage"));
let facts; // about the server
let picture = null; // {name, height, width}
let answer = null; // header and plane of the last answer
let spot = null; // the pixel that was clicked
let shows = 0; // counts pictures, so that late answers about an earlier one are dropped

// ---- the question -------------------------------------------------------------------------------------------

const SLIDERS = ["threshold", "pd", "ks"];

function question() {
  const value = (id) => Number($(id).value);
  const refine = ["pd", "ks"].filter((id) => value(id) > 0).map((id) => `${id}=${value(id)}`);
  return {
    words: $("words").value,
    background: $("background").value,
    threshold: value("threshold") || null,
    refine: refine.join("+"),
    preset: $("preset").value,
    size: value("size"),
    templates: $("templates").value,
  };
}

function fill(asked) {
  for (const id of ["words", "background", "preset", "size", "templates"]) $(id).value = asked[id];
  $("threshold").value = asked.threshold ?? 0;
  const refine = Object.fromEntries((asked.refine || "").split("+").map((part) => part.split("=")));
  for (const id of ["pd", "ks"]) $(id).value = refine[id] ?? 0;
  label();
}

function label() {
  for (const id of SLIDERS) {
    const value = Number($(id).value);
    $(id).nextElementSibling.textContent = value ? value.toFixed(2) : "off";
  }
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
    say(`${picture.name}, ${picture.width} × ${picture.height}. Answered in ${took}, ${how}; shown after ${whole}.`);
  } catch (error) {
    if (show === shows) await failed(error, "words-alert");
  }
}

async function showAnswer() {
  showLegend($("legend"), $("absent"), answer, {
    enter: (id) => view() === "mask" && paintMask(id),
    leave: () => view() === "mask" && paintMask(),
    press: (id) => showHeatOf(id),
  });
  const scored = answer.classes.flatMap((one, id) => (one.scored ? [make("option", { value: id }, one.name)] : []));
  const before = $("heat-word").selectedOptions[0]?.textContent;
  $("heat-word").replaceChildren(...scored);
  const same = scored.find((option) => option.textContent === before);
  if (same) same.selected = true;
  showProtocol($("protocol"), answer.protocol);
  $("file-name").textContent = picture.name;
  showCode();
  await Promise.all([paint(), spot && showSpot()]);
}

// ---- the picture and its views --------------------------------------------------------------------------------

const view = () => document.querySelector("input[name=view]:checked").value;

function paintMask(only = null) {
  const colors = answer.classes.map((one, id) => (id === answer.background ? null : one.color));
  stage.paintMask(answer.plane, colors, only);
}

async function paint() {
  const shown = view();
  $("heat-choice").hidden = $("scale").hidden = shown !== "heat";
  for (const button of $("legend").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", shown === "heat" && button.dataset.id === $("heat-word").value);
  }
  if (answer === null || shown === "picture") return stage.clear();
  if (shown === "mask") return paintMask();
  const [asked, id] = [answer, $("heat-word").value];
  const heat = await api.heat(id).catch(async (error) => (await failed(error), null));
  if (answer !== asked || view() !== "heat" || $("heat-word").value !== id) return;
  if (heat === null) return stage.clear();
  complain(null);
  stage.paintHeat(heat.plane, facts.heat);
  [$("low").textContent, $("high").textContent] = [heat.low.toFixed(3), heat.high.toFixed(3)];
}

function showHeatOf(id) {
  const same = view() === "heat" && $("heat-word").value === String(id);
  document.querySelector(`input[name=view][value=${same ? "mask" : "heat"}]`).checked = true;
  $("heat-word").value = id;
  paint();
}

async function showSpot() {
  try {
    const pixel = await api.pixel(...spot);
    showPixel($("pixel"), $("pixel-hint"), pixel);
  } catch (error) {
    await failed(error);
  }
}

async function load(get, example = null) {
  const show = ++shows;
  busy(true);
  try {
    const shown = await get();
    const blob = await api.download("picture.jpg");
    if (show !== shows) return;
    picture = shown;
    await stage.show(blob, shown.height, shown.width);
    answer = spot = null;
    stage.clear();
    complain(null);
    $("pixel").replaceChildren();
    $("pixel-hint").textContent = "Click into the picture to see which words fit there.";
    for (const [index, button] of [...$("examples").children].entries()) {
      button.setAttribute("aria-pressed", index === example);
    }
    if (shown.words) $("words").value = facts.model.words ?? shown.words;
    await ask();
  } catch (error) {
    if (show === shows) await failed(error);
    busy(false);
  }
}

function openFile(file) {
  if (!file) return;
  if (file.size > facts.limits.upload) {
    return complain(`${file.name} has ${(file.size / 2 ** 20).toFixed(0)} MiB, more than ${facts.limits.upload / 2 ** 20}; make it smaller.`);
  }
  load(() => api.upload(file));
}

// ---- messages -------------------------------------------------------------------------------------------------

const say = (text) => ($("status").textContent = text);
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
  for (const id of ["words", "background"]) $(id).addEventListener("input", () => askSoon(250));
  for (const id of SLIDERS) $(id).addEventListener("input", () => (label(), askSoon(60)));
  for (const id of ["preset", "size", "templates"]) $(id).addEventListener("change", () => (label(), ask()));
  for (const radio of document.querySelectorAll("input[name=view]")) radio.addEventListener("change", paint);
  for (const radio of document.querySelectorAll("input[name=code]")) radio.addEventListener("change", showCode);
  $("heat-word").addEventListener("change", paint);
  $("opacity").addEventListener("input", opacity);
  $("open").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => (openFile($("file").files[0]), ($("file").value = "")));
  $("copy").addEventListener("click", copy);
  for (const button of document.querySelectorAll("[data-file]")) button.addEventListener("click", () => take(button));
  $("stage").addEventListener("pointermove", hover);
  $("stage").addEventListener("pointerleave", () => ($("tip").hidden = true));
  $("stage").addEventListener("click", pick);
  addEventListener("dragover", (event) => (event.preventDefault(), $("stage").classList.add("dropping")));
  addEventListener("dragleave", (event) => event.relatedTarget ?? $("stage").classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    $("stage").classList.remove("dropping");
    openFile(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => openFile(event.clipboardData.files[0]));
}

const opacity = () => (stage.over.style.opacity = $("opacity").value);

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
  const at = answer && stage.spot(event);
  if (!at) return;
  spot = at;
  stage.mark(spot);
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
    button.addEventListener("click", () => load(() => api.choose(index), index));
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
  if (before?.picture) await load(async () => before.picture);
  else await load(() => api.choose(0), 0);
}

begin().catch(failed);
