// Opens pages of flashpoint in a headless Chromium and holds them to what docs/reports.md promises: nothing wider than the window,
// plots with marks and names on their axes, contrast, no serious violation of accessibility, tables that sort and filter, no request.
//
//   npm install && node pages.mjs [--shots DIR]
//
// FLASHPOINT is the binary (default: target/debug/flashpoint), CHROMIUM the browser (default: /usr/bin/chromium).

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { chromium } from "playwright-core";

const root = resolve(fileURLToPath(import.meta.url), "../../..");
const binary = resolve(root, process.env.FLASHPOINT ?? "target/debug/flashpoint");
const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const shots = process.argv[2] === "--shots" ? resolve(process.argv[3]) : null;
const folder = mkdtempSync(join(tmpdir(), "flashpoint-pages-"));
if (shots) mkdirSync(shots, { recursive: true });

// What is opened, and which tensor the page must name as the one it began in.
const PAGES = [
  { name: "spike", command: ["postmortem", "fixtures/runs/gpt-spike"], culprit: "lm_head.weight", plots: 4 },
  { name: "logits", command: ["postmortem", "fixtures/runs/gpt-attention-logits"], plots: 2 },
  { name: "nan", command: ["postmortem", "fixtures/runs/mlp-nan"], plots: 1 },
  { name: "rate", command: ["postmortem", "fixtures/runs/learning-rate-momentum-easy"], plots: 2 },
  { name: "healthy", command: ["postmortem", "fixtures/runs/gpt-healthy"], plots: 2 },
  { name: "recurrent", command: ["inspect", "fixtures/runs/rnn-exploding/checkpoint-0400"], plots: 4 },
  { name: "gate", command: ["gate", "fixtures/runs/gpt-spike/checkpoint-240"], plots: 3 },
  { name: "clip", command: ["clip", "fixtures/clip/bloom-176b.jsonl"], plots: 1 },
  {
    name: "diff",
    command: ["diff", "fixtures/runs/gpt-spike/checkpoint-160", "fixtures/runs/gpt-spike/checkpoint-200"],
    plots: 1,
  },
  {
    name: "jacobian",
    command: ["jacobian", "fixtures/rules/FP802-block-gain-outlier/fires-second-block-of-five", "--tokens", "8"],
    plots: 2,
  },
  {
    name: "through-time",
    command: ["jacobian", "fixtures/rules/FP805-positive-lyapunov-exponent/fires-gain-of-three", "--tokens", "8"],
    plots: 2,
  },
];

function write({ name, command }) {
  const file = join(folder, `${name}.html`);
  try {
    execFileSync(binary, [...command, "--quiet", "--output", `html=${file}`], { cwd: root, stdio: "ignore" });
  } catch (error) {
    // A gate that fails has written its page all the same.
    assert.ok(error.status === 1 || error.status === 2, `${name}: ${error}`);
  }
  return pathToFileURL(file).href;
}

async function open(browser, url, options) {
  const context = await browser.newContext({ bypassCSP: false, ...options });
  const page = await context.newPage();
  const problems = [];
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => request.url() !== url && problems.push(`asks for ${request.url()}`));
  await page.goto(url);
  return { context, page, problems };
}

async function checkWidth(page, name, width) {
  const [wide, window] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(wide <= window, `${name}: ${wide} pixels wide in a window of ${width}`);
}

async function checkPlots(page, name, fewest) {
  const plots = await page.$$eval("figure svg", (all) =>
    all.map((svg) => ({
      marks: svg.querySelectorAll("polyline, circle, polygon, rect").length,
      names: [...svg.querySelectorAll("text")].map((text) => text.textContent.trim()).filter((text) => /[a-z]{4}/.test(text)),
      numbers: [...svg.querySelectorAll("text")].filter((text) => /^-?[\d.]+(e-?\d+|k)?$/.test(text.textContent.trim())).length,
      smallest: Math.min(...[...svg.querySelectorAll("text")].map((text) => text.getBoundingClientRect()).map((box) => Math.min(box.width, box.height))),
    })),
  );
  assert.ok(plots.length >= fewest, `${name}: ${plots.length} plots, not ${fewest}`);
  for (const [index, plot] of plots.entries()) {
    assert.ok(plot.marks > 0, `${name}: plot ${index} is empty`);
    assert.ok(plot.names.length >= 2, `${name}: plot ${index} has unnamed axes: ${plot.names}`);
    assert.ok(plot.numbers >= 4, `${name}: plot ${index} has ${plot.numbers} numbers on its axes`);
  }
}

async function checkAxe(browser, url, options, name) {
  // The checker itself is a script that the page's policy does not know.
  const { context, page } = await open(browser, url, { ...options, bypassCSP: true });
  await page.$$eval("details", (all) => all.forEach((one) => (one.open = true)));
  await page.addScriptTag({ path: axe });
  const { violations } = await page.evaluate(() => globalThis.axe.run({ resultTypes: ["violations"] }));
  const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
  assert.deepEqual(serious.map((one) => `${one.id}: ${one.nodes[0].target} ${one.nodes[0].failureSummary}`), [], name);
  await context.close();
}

async function checkPage(browser, description) {
  const { name, culprit, plots } = description;
  const url = write(description);
  const shot = (page, kind) => shots && page.screenshot({ path: join(shots, `${name}-${kind}.png`), fullPage: true });

  const light = await open(browser, url, { viewport: { width: 1200, height: 900 }, colorScheme: "light" });
  await checkWidth(light.page, name, 1200);
  await checkPlots(light.page, name, plots);
  if (culprit) assert.match(await light.page.textContent(".verdict"), new RegExp(culprit.replaceAll(".", "\\.")));
  await shot(light.page, "light");
  if (shots) await light.page.pdf({ path: join(shots, `${name}.pdf`), format: "A4" });
  assert.deepEqual(light.problems, [], name);
  await light.context.close();

  const narrow = await open(browser, url, { viewport: { width: 400, height: 800 }, colorScheme: "light" });
  await narrow.page.$$eval("details", (all) => all.forEach((one) => (one.open = true)));
  await checkWidth(narrow.page, name, 400);
  const text = await narrow.page.$$eval("figure svg text", (all) =>
    all.map((one) => (parseFloat(one.getAttribute("font-size")) * one.ownerSVGElement.getBoundingClientRect().width) / one.ownerSVGElement.viewBox.baseVal.width),
  );
  assert.ok(Math.min(...text) >= 9.5, `${name}: text of ${Math.min(...text)} pixels in a plot`);
  await shot(narrow.page, "narrow");
  await narrow.context.close();

  const dark = await open(browser, url, { viewport: { width: 1200, height: 900 }, colorScheme: "dark" });
  await shot(dark.page, "dark");
  await dark.context.close();

  for (const colorScheme of ["light", "dark"]) {
    await checkAxe(browser, url, { viewport: { width: 1200, height: 900 }, colorScheme }, `${name}, ${colorScheme}`);
  }
}

async function checkTable(browser) {
  const url = write(PAGES[0]);
  const { context, page } = await open(browser, url, { viewport: { width: 1200, height: 900 } });
  const table = page.locator("table", { hasText: "gradient, last" });
  const cells = (column) => table.locator(`tbody tr:not([hidden]) td:nth-child(${column})`).allTextContents();
  const head = table.locator("th", { hasText: "gradient ×" });
  await head.getByRole("button").click();
  assert.equal(await head.getAttribute("aria-sort"), "descending");
  const ratios = (await cells(6)).map(Number).filter((ratio) => !Number.isNaN(ratio));
  assert.ok(ratios.length > 5);
  assert.deepEqual(ratios, [...ratios].sort((one, other) => other - one), "numbers are sorted as numbers");
  assert.equal((await cells(1))[0].trim(), PAGES[0].culprit, "the culprit is on top");
  await head.getByRole("button").click();
  assert.equal(await head.getAttribute("aria-sort"), "ascending");
  const before = (await cells(1)).length;
  await page.locator("section", { has: table }).getByRole("searchbox").last().fill("lm_head");
  await page.waitForFunction(() => document.querySelector("tr[hidden]"));
  const shown = await cells(1);
  assert.ok(shown.length < before && shown.every((cell) => cell.includes("lm_head")), `${shown}`);
  await context.close();
}

// What a reader sees who points at a plot is a title of its SVG: no script is needed for it.
async function checkPointing(browser) {
  const url = write(PAGES[0]);
  const { context, page } = await open(browser, url, { viewport: { width: 1200, height: 900 }, javaScriptEnabled: false });
  const figure = page.locator("figure", { hasText: "Loss and gradient norm" });
  const peak = figure.locator(".notes path", { has: page.locator("title", { hasText: /gradient norm: 38\.71|gradient norm: .* to 38\.71/ }) });
  assert.equal(await peak.count(), 1, "one column has the peak");
  await peak.scrollIntoViewIfNeeded();
  await peak.hover();
  const under = await peak.evaluate((one) => {
    const box = one.getBoundingClientRect();
    return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === one;
  });
  assert.ok(under, "nothing lies over the column");
  assert.match(await peak.locator("title").textContent(), /^steps? 18\d/);
  await context.close();
}

async function checkWithoutScript(browser) {
  const url = write(PAGES[0]);
  const { context, page } = await open(browser, url, { javaScriptEnabled: false });
  const rows = await page.locator("table", { hasText: "gradient, last" }).locator("tbody tr").count();
  assert.ok(rows > 20, "every tensor is there without a script");
  await context.close();
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu"],
});
let failed = 0;
const checks = [
  ...PAGES.map((page) => [page.name, () => checkPage(browser, page)]),
  ["sorting and filtering", () => checkTable(browser)],
  ["pointing at a plot", () => checkPointing(browser)],
  ["without a script", () => checkWithoutScript(browser)],
];
for (const [name, check] of checks) {
  try {
    await check();
    console.log(`ok      ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED  ${name}\n${error.message}`);
  }
}
await browser.close();
rmSync(folder, { recursive: true });
process.exit(failed === 0 ? 0 : 1);
