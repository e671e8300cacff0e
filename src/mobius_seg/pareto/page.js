
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const charts = all("figure.chart");
  const body = document.querySelector("tbody");
  const rows = all("tr", body);
  const said = document.getElementById("said");
  const chosen = (name) => document.querySelector("input[name=" + name + "]:checked").value;

  function show() {
    const figure = chosen("figure");
    const view = chosen("view");
    for (const chart of charts) {
      chart.hidden = chart.dataset.figure !== figure || chart.dataset.view !== view;
    }
    for (const row of rows) {
      row.hidden = view !== "all" && row.dataset.runtime !== view;
      const fronts = row.dataset.front.split(" ");
      const costs = ["time", "GMAC"].filter((cost) => fronts.includes([figure, view, cost].join(":")));
      row.classList.toggle("on-front", costs.length > 0);
      row.querySelector(".front").textContent = costs.join(", ");
    }
  }

  function sort(head) {
    const column = [...head.parentNode.children].indexOf(head);
    const rising = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const numeric = !head.classList.contains("text");
    const value = (row) => {
      const cell = row.children[column];
      return numeric ? Number(cell.dataset.value) : cell.textContent;
    };
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      return numeric ? x - y : x.localeCompare(y);
    };
    rows.sort((a, b) => (rising ? compare(a, b) : compare(b, a)));
    body.append(...rows);
  }

  function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    const done = (ok) => {
      said.textContent = ok ? "Copied." : "The browser does not let this page copy; select the text instead.";
      if (!ok) source.closest("details")?.setAttribute("open", "");
      if (!ok || button.dataset.label) return;
      button.dataset.label = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => {
        button.textContent = button.dataset.label;
        delete button.dataset.label;
      }, 1500);
    };
    if (navigator.clipboard && window.isSecureContext) {
      navigator.clipboard.writeText(source.textContent).then(() => done(true), () => done(false));
      return;
    }
    const area = document.createElement("textarea");
    area.value = source.textContent;
    document.body.append(area);
    area.select();
    done(document.execCommand("copy"));
    area.remove();
    button.focus();
  }

  function tell(point) {
    point.closest("figure").querySelector(".detail").textContent = point.getAttribute("aria-label");
  }

  function visit(point) {
    for (const row of rows) row.classList.toggle("chosen", row.id === point.dataset.row);
    const row = document.getElementById(point.dataset.row);
    row.scrollIntoView({ block: "center" });
    row.querySelector("button").focus({ preventScroll: true });
  }

  for (const point of all(".point")) {
    point.addEventListener("mouseenter", () => tell(point));
    point.addEventListener("focus", () => tell(point));
    point.addEventListener("click", () => visit(point));
    point.addEventListener("keydown", (event) => {
      if (event.key === "Enter") visit(point);
    });
  }
  for (const head of all("th")) head.querySelector("button")?.addEventListener("click", () => sort(head));
  for (const button of all("[data-copy]")) button.addEventListener("click", () => copy(button));
  const choices = document.getElementById("choices");
  choices.addEventListener("change", show);
  choices.addEventListener("submit", (event) => event.preventDefault());
  show();
})();
