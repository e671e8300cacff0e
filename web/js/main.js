// The page: reads the controls, asks the worker, shows what comes back.

import { Client } from "./client.js";
import { UserError } from "./errors.js";
import { readNames } from "./names.js";
import { showInstances, showTimes } from "./panel.js";
import { decodePicture } from "./picture.js";
import { fromSlider, toSlider } from "./threshold.js";
import { View } from "./view.js";

const START_THRESHOLD = 0.001;

const $ = (id) => document.getElementById(id);
const view = new View($("view"));
let client = null;
let decoding = 0; // milliseconds of the picture at hand, counted with its resizing
let opening = 0; // number of the last picture that was asked for
let running = 0; // number of the last run
let lastNames = "";
let index = null; // of assets/, see make_assets.py

const threshold = () => fromSlider($("threshold").valueAsNumber);

function showError(error) {
  const known = error instanceof UserError;
  $("error").textContent = known ? error.message : `Something went wrong: ${error?.message ?? error}`;
  $("error").hidden = false;
  if (!known) console.error(error);
}

function busy(text) {
  $("busy").hidden = !text;
  $("busy-text").textContent = text ?? "";
}

// Do what the user asked for; what goes wrong becomes one line.
async function attempt(work) {
  $("error").hidden = true;
  try {
    await work();
  } catch (error) {
    busy(null);
    showError(error);
  }
}

function worker() {
  client ??= new Client((text) => {
    if (!$("busy").hidden) busy(text);
  });
  return client;
}

async function openPicture(blob, names) {
  const mine = ++opening;
  busy("Opening the picture…");
  const start = performance.now();
  const picture = await decodePicture(blob);
  if (mine !== opening) return;
  decoding = performance.now() - start;
  const first = !view.picture;
  $("drop").removeAttribute("data-empty");
  $("empty").hidden = true;
  $("tools").hidden = false;
  if (first) $("drop").focus({ preventScroll: true }); // the button that was pressed is gone
  view.setPicture(picture);
  show([], true);
  const { rgba, height, width } = picture;
  const note = picture.shrunk ? ", shrunk to what the page takes" : "";
  $("view").setAttribute("aria-label", `Picture of ${width} by ${height} pixels`);
  $("status").textContent = `Picture of ${width} × ${height} pixels${note}.`;
  await worker().ask("picture", { rgba: rgba.buffer, height, width }, [rgba.buffer]);
  if (mine !== opening) return;
  $("run").disabled = false;
  if (names) $("names").value = names;
  await run();
}

async function openDemo(file, names) {
  const response = await fetch(new URL(`assets/demo/${file}`, document.baseURI)).catch(() => null);
  if (!response?.ok) throw new UserError(`assets/demo/${file} is not there. Run make web first.`);
  await openPicture(await response.blob(), names);
}

async function run() {
  if (!view.picture) throw new UserError("Choose a picture first.");
  const names = readNames($("names").value);
  const mine = ++running;
  const point = document.querySelector("input[name=point]:checked").value;
  busy("Getting ready…");
  const request = { names, point, size: Number($("size").value), threshold: threshold() };
  let found;
  try {
    found = await worker().ask("run", request);
  } catch (error) {
    if (mine === running) throw error;
    return;
  }
  if (mine !== running || !found) return;
  busy(null);
  lastNames = names.join(", ");
  const { resize, ...times } = found.times;
  show(found.instances, true);
  showTimes({ picture: decoding + resize, ...times }, found.threads);
  document.body.dataset.done = `${point} ${mine}`;
  if (threshold() !== request.threshold) await rethreshold();
}

async function rethreshold() {
  if (!client || !view.picture) return;
  const mine = running;
  const wanted = threshold();
  const { instances } = await client.ask("threshold", { threshold: wanted });
  if (mine === running && wanted === threshold()) show(instances, false);
}

function show(instances, fresh) {
  view.setInstances(instances, fresh);
  showInstances(instances, view.chosen, choose);
  $("save").disabled = !view.picture;
  if (!lastNames || !view.picture) return;
  $("status").textContent = instances.length
    ? `Asked for: ${lastNames}. Point at an outline or a line of the list.`
    : `Nothing reaches ${threshold().toFixed(4)} for ${lastNames}. Try a lower score or other names.`;
  document.body.dataset.count = instances.length;
}

function choose(id) {
  if (id === view.chosen) return;
  view.choose(id);
  for (const button of $("found").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.id === String(id)));
  }
}

// How much of the decoder the chosen point runs.
function showPoint() {
  const schedule = index?.points[document.querySelector("input[name=point]:checked").value];
  if (!schedule) return;
  const { layers, queries } = schedule;
  $("point-help").textContent =
    `${layers} decoder layers; queries from stage to stage: ${queries.join(", ")}.`;
}

async function readIndex() {
  const response = await fetch(new URL("assets/index.json", document.baseURI)).catch(() => null);
  if (!response?.ok) throw new UserError("The page's assets are not there. Run make web first.");
  index = await response.json();
  const digest = index.weights.sha256 ? `, weights ${index.weights.sha256.slice(0, 8)}` : "";
  $("model").textContent = `${index.model} (version ${index.version}${digest})`;
  showPoint();
}

function showThreshold() {
  const value = threshold().toFixed(4);
  $("threshold-value").textContent = value;
  $("threshold").setAttribute("aria-valuetext", value);
}

function takeFiles(files) {
  const [file] = files ?? [];
  if (file) attempt(() => openPicture(file));
}

function listenToPictures() {
  const drop = $("drop");
  for (const button of document.querySelectorAll("[data-pick]")) {
    button.addEventListener("click", () => $("file").click());
  }
  for (const button of document.querySelectorAll("[data-demo]")) {
    const { demo, names } = button.dataset;
    button.addEventListener("click", () => attempt(() => openDemo(demo, names)));
  }
  $("file").addEventListener("change", ({ target }) => {
    takeFiles(target.files);
    target.value = "";
  });
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) takeFiles(files);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.dataset.over = "";
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) delete drop.dataset.over;
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    delete drop.dataset.over;
    takeFiles(event.dataTransfer?.files);
  });
}

function listenToControls() {
  const again = () => view.picture && attempt(run);
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(run);
  });
  $("names").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    attempt(run);
  });
  for (const radio of document.querySelectorAll("input[name=point]")) {
    radio.addEventListener("change", () => {
      showPoint();
      again();
    });
  }
  $("size").addEventListener("change", again);
  $("threshold").addEventListener("input", () => {
    showThreshold();
    attempt(rethreshold);
  });
  $("show-names").addEventListener("change", ({ target }) => {
    view.options.names = target.checked;
    view.draw();
  });
  $("show-boxes").addEventListener("change", ({ target }) => {
    view.options.boxes = target.checked;
    view.draw();
  });
}

function listenToView() {
  $("view").addEventListener("pointermove", (event) => choose(view.at(event)));
  $("view").addEventListener("pointerleave", () => choose(null));
  $("save").addEventListener("click", () => attempt(save));
  window.addEventListener("resize", () => view.draw());
}

async function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await view.toBlob());
  link.download = "mobius-seg.png";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// For tests and for the curious: what is on the screen, as data.
Object.defineProperty(window, "mobiusSeg", {
  value: Object.freeze({ instances: () => view.instances, picture: () => view.picture }),
});

$("threshold").value = toSlider(START_THRESHOLD);
showThreshold();
listenToPictures();
listenToControls();
listenToView();
attempt(async () => {
  worker();
  await readIndex();
});
