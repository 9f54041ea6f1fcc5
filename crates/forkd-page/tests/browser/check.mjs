// Opens a site in a real browser and looks at it as a visitor would: node check.mjs SITE URL OUT
// SITE is a page's address (file: or http:), of a site with 10,000 packages; OUT is a folder for screenshots.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const [site, out] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const faults = [];
const check = (holds, what) => {
  console.log(`${holds ? "ok  " : "FAIL"} ${what}`);
  if (!holds) faults.push(what);
};

const browser = await chromium.launch({
  executablePath: process.env.FORKD_CHROMIUM || "/usr/bin/chromium",
  args: ["--no-sandbox"],
});
const origin = site.slice(0, site.lastIndexOf("/") + 1);

async function open(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  page.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") faults.push(`console: ${message.text()}`);
  });
  page.on("pageerror", (error) => faults.push(`error on the page: ${error}`));
  page.on("dialog", (dialog) => {
    faults.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(origin) && !url.startsWith("data:")) faults.push(`a request to elsewhere: ${url}`);
  });
  return page;
}

// By its own context: the pages' policy lets no script of ours in otherwise.
async function accessible(page, what) {
  const session = await page.context().newCDPSession(page);
  const { frameTree } = await session.send("Page.getFrameTree");
  const { executionContextId } = await session.send("Page.createIsolatedWorld", { frameId: frameTree.frame.id });
  const run = async (expression) => {
    const result = await session.send("Runtime.evaluate", {
      expression, contextId: executionContextId, awaitPromise: true, returnByValue: true,
    });
    if (result.exceptionDetails) throw new Error(JSON.stringify(result.exceptionDetails));
    return result.result.value;
  };
  await run(axe);
  const violations = await run(
    "axe.run(document, { preload: false }).then((found) => found.violations.map((v) => v.id + ': ' + v.nodes.length + ', first ' + v.nodes[0].html.slice(0, 120)))",
  );
  check(violations.length === 0, `${what}: contrast, labels, roles (${violations.join("; ") || "axe finds nothing"})`);
}

for (const [width, colorScheme] of [[390, "light"], [1280, "light"], [1280, "dark"]]) {
  const page = await open({ viewport: { width, height: 844 }, colorScheme });
  const name = `${width}${colorScheme === "dark" ? "-dark" : ""}`;
  await page.goto(site);
  check((await page.locator("#list li").count()) === 200, `${name}: 200 of the list are there`);
  const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  check((await overflow()) <= 0, `${name}: the list is no wider than the screen`);
  await accessible(page, `${name}: list`);
  await page.screenshot({ path: `${out}/list-${name}.png` });
  await page.fill("#q", "acme/numpy");
  await page.click("#list a");
  await page.waitForSelector("#pull");
  check((await overflow()) <= 0, `${name}: a page is no wider than the screen`);
  await accessible(page, `${name}: package`);
  await page.screenshot({ path: `${out}/package-${name}.png`, fullPage: true });
  await page.context().close();
}

const page = await open({ viewport: { width: 1280, height: 844 } });
await page.goto(site);
// From a key to the list as it is drawn.
const times = await page.evaluate(async () => {
  const field = document.getElementById("q");
  const drawn = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const times = [];
  for (const text of ["p", "py", "package-9", "no such thing", "package-77", ""]) {
    const begun = performance.now();
    field.value = text;
    field.dispatchEvent(new Event("input"));
    document.body.getBoundingClientRect();
    times.push(performance.now() - begun);
    await drawn();
  }
  return times;
});
const slowest = Math.max(...times);
check(slowest < 100, `filtering 10,000 packages took ${slowest.toFixed(1)} ms at most, with layout (under 100)`);
await page.fill("#q", "package-1234 ");
check((await page.textContent("#count")) === "1 snapshot", "the count is told");
await page.reload();
check((await page.inputValue("#q")) === "package-1234 ", "a search is in the address");
await page.fill("#q", "evil");
check((await page.textContent("#list p")).includes("<script>alert(1)</script>"), "markup of publishers is text in the list");
await page.click("#list a");
check((await page.textContent(".lead")).includes("<script>alert(1)</script>"), "markup of publishers is text on a page");

await page.goto(site);
const order = [];
for (let i = 0; i < 4; i++) {
  await page.keyboard.press("Tab");
  order.push(await page.evaluate(() => document.activeElement.className || document.activeElement.id || document.activeElement.tagName));
}
check(order.join(" ") === "skip home q A", `the keyboard goes through it in order: ${order.join(", ")}`);
await page.fill("#q", "acme/numpy");
await page.click("#list a");
await page.click("button");
await page.waitForFunction(() => document.getElementById("copied").textContent !== "");
check((await page.textContent("#copied")) === "copied", "the pull line is copied");
await browser.close();

for (const fault of faults.filter((fault) => /^(console|error|a dialog|a request)/.test(fault))) console.log(`FAIL ${fault}`);
check(faults.length === 0, "nothing was wrong");
process.exit(faults.length === 0 ? 0 : 1);
