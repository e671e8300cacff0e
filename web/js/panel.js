// The lists beside the picture: what was found, and where the time went.

import { colourOf } from "./colours.js";
import { formatScore } from "./view.js";

const STAGES = [
  ["picture", "Decode, resize"],
  ["text", "Text"],
  ["network", "Network"],
  ["postprocess", "Masks"],
];

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// One button an instance; `choose(id)` hears which one is pointed at or focused, null for none.
export function showInstances(instances, chosen, choose) {
  const list = document.getElementById("found");
  const count = instances.length;
  document.getElementById("count").textContent = count ? `${count} shown` : "";
  list.replaceChildren(
    ...instances.map(({ id, name, score, mask }, index) => {
      const swatch = element("span", { className: "swatch", ariaHidden: "true" });
      swatch.style.background = colourOf(index);
      const share = (100 * mask.area) / (mask.width * mask.height);
      const button = element(
        "button",
        { type: "button", title: `${share.toFixed(1)} % of the picture` },
        swatch,
        element("span", { className: "name", textContent: name }),
        element("span", { className: "score", textContent: formatScore(score) }),
      );
      button.dataset.id = id;
      button.setAttribute("aria-pressed", String(id === chosen));
      button.addEventListener("pointerenter", () => choose(id));
      button.addEventListener("focus", () => choose(id));
      button.addEventListener("pointerleave", () => choose(null));
      button.addEventListener("blur", () => choose(null));
      return element("li", {}, button);
    }),
  );
}

// Milliseconds by stage as a bar and as numbers.
export function showTimes(times, threads) {
  const rows = STAGES.map(([key, label], i) => ({ label, ms: times[key], className: `s${i}` }));
  const sum = rows.reduce((total, { ms }) => total + ms, 0);
  document.getElementById("bar").replaceChildren(
    ...rows.map(({ ms, className }) => {
      const part = element("i", { className });
      part.style.flexGrow = ms / sum;
      return part;
    }),
  );
  const row = (label, ms, className, ...mark) =>
    element("div", { className }, ...mark, element("dt", { textContent: label }),
      element("dd", { textContent: formatTime(ms) }));
  document.getElementById("times").replaceChildren(
    ...rows.map(({ label, ms, className }) => row(label, ms, "", element("i", { className }))),
    row("Together", sum, "sum"),
  );
  const plural = threads === 1 ? "one thread" : `${threads} threads`;
  document.getElementById("threads").textContent = `WebAssembly, ${plural}; loading not counted`;
  document.getElementById("timing").hidden = false;
  Object.assign(document.getElementById("times").dataset, times);
}

function formatTime(ms) {
  return ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms < 10 ? ms.toFixed(1) : ms.toFixed(0)} ms`;
}
