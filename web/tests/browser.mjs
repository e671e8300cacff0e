// Drives the page in Chromium and prints what it shows as JSON; tests/e2e/test_web.py reads it.
//
//   node web/tests/browser.mjs --url http://127.0.0.1:8000/ --chromium /usr/bin/chromium \
//     [--out FOLDER for screenshots] [--size 256] [--threshold 0.005] [--points full,fast]
//     [--text "a word that is not bundled"] [--only start: what the page says before anything]

import { join } from "node:path";
import { parseArgs } from "node:util";

import { chromium } from "playwright-core";

const option = (value) => ({ type: "string", default: value });
const { values: options } = parseArgs({
  options: {
    url: option(), chromium: option("/usr/bin/chromium"), out: option(), size: option("256"),
    threshold: option("0.005"), points: option("full"), text: option(), wait: option("240"),
    only: option(),
  },
});
const DEMOS = { "cat.png": "cat", "coffee.png": "cup, spoon" };
const patience = { timeout: Number(options.wait) * 1000 };

const report = { runs: [], requests: [], complaints: [], errors: {} };
const browser = await chromium.launch({
  executablePath: options.chromium,
  args: process.getuid?.() === 0 ? ["--no-sandbox"] : [],
});

async function open(viewport, colorScheme) {
  const page = await browser.newPage({ viewport, colorScheme });
  page.setDefaultTimeout(patience.timeout);
  page.on("request", (request) => report.requests.push(request.url()));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) report.complaints.push(message.text());
  });
  page.on("pageerror", (error) => report.complaints.push(String(error)));
  await page.goto(options.url);
  return page;
}

const shot = async (page, name) =>
  options.out && page.screenshot({ path: join(options.out, `${name}.png`), fullPage: true });

// Wait until the next run has finished and say what it showed.
async function finish(page, before, facts) {
  await page.waitForFunction(
    (old) => document.body.dataset.done !== old || !document.getElementById("error").hidden,
    before, patience,
  );
  const shown = await page.evaluate(() => ({
    error: document.getElementById("error").hidden ? null : document.getElementById("error").textContent,
    instances: window.mobiusSeg.instances().map(({ name, score, mask }) =>
      ({ name, score, box: mask.box, edges: [...mask.edges], size: [mask.height, mask.width] })),
    times: { ...document.getElementById("times").dataset },
    threads: document.getElementById("threads").textContent,
  }));
  report.runs.push({ ...facts, ...shown });
}

const done = (page) => page.evaluate(() => document.body.dataset.done);

async function setThreshold(page, wanted) {
  await page.evaluate(async (score) => {
    const { toSlider } = await import(new URL("js/threshold.js", document.baseURI));
    const slider = document.getElementById("threshold");
    slider.value = toSlider(score);
    slider.dispatchEvent(new Event("input"));
  }, Number(wanted));
}

async function demos(page) {
  for (const [demo, names] of Object.entries(DEMOS)) {
    for (const [i, point] of options.points.split(",").entries()) {
      let before = await done(page);
      const changed = !(await page.isChecked(`input[value=${point}]`));
      await page.check(`input[value=${point}]`, { force: true });
      if (i === 0) {
        if (changed && before) {
          // the picture before is looked at under this point first
          await page.waitForFunction((old) => document.body.dataset.done !== old, before, patience);
          before = await done(page);
        }
        await page.click(`[data-demo="${demo}"]:visible`);
      }
      await finish(page, before, { demo, names, point });
      await shot(page, `${demo.split(".")[0]}-${point}`);
    }
  }
}

async function freeText(page) {
  const before = await done(page);
  await page.fill("#names", options.text);
  // Another operating point is looked at by itself.
  if (await page.isChecked("input[value=full]")) await page.press("#names", "Enter");
  else await page.check("input[value=full]", { force: true });
  await finish(page, before, { demo: Object.keys(DEMOS).at(-1), names: options.text, point: "text" });
}

// What goes wrong is one line, and the page goes on afterwards.
async function mistakes(page) {
  const error = () => page.textContent("#error:not([hidden])");
  await page.fill("#names", " , ");
  await page.press("#names", "Enter");
  report.errors.names = await error();
  const bad = (buffer) => ({ name: "bad.png", mimeType: "image/png", buffer: Buffer.from(buffer) });
  await page.setInputFiles("#file", bad("no picture"));
  await page.waitForFunction(() => /read/.test(document.getElementById("error").textContent));
  report.errors.file = await error();
  await page.setInputFiles("#file", bad(""));
  await page.waitForFunction(() => /empty/.test(document.getElementById("error").textContent));
  report.errors.empty = await error();
  await page.fill("#names", "cat");
}

// Nothing but the keyboard: to the names, to the run button, to the first result.
async function keyboard(page) {
  await page.focus("#names");
  const seen = [];
  for (let i = 0; i < 6; i++) {
    seen.push(await page.evaluate(() => document.activeElement.id || document.activeElement.name));
    await page.keyboard.press("Tab");
  }
  report.keyboard = seen;
  await page.evaluate(() => document.activeElement.blur());
  report.widest = await page.evaluate(() => document.documentElement.scrollWidth);
}

async function everything(page) {
  await shot(page, "empty");
  await page.selectOption("#size", options.size);
  await setThreshold(page, options.threshold);
  report.threshold = Number(await page.textContent("#threshold-value"));
  await demos(page);
  if (options.text) await freeText(page);
  await page.emulateMedia({ colorScheme: "dark" });
  await shot(page, "dark");
  await mistakes(page);
  await page.setViewportSize({ width: 390, height: 844 });
  await keyboard(page);
  await shot(page, "phone");
}

const page = await open({ width: 1280, height: 900 }, "light");
if (options.only === "start") report.errors.start = await page.textContent("#error:not([hidden])");
else await everything(page);
await browser.close();
console.log(JSON.stringify(report));
