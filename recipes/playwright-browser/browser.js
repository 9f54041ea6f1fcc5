// Loaded by eval-server.js before the freeze: launches Chromium, opens a page, and has it do once what a child's first script will do.
'use strict';
const { chromium } = require('/opt/playwright/node_modules/playwright-core');

// A guest without a graphics card or a network, and one processor; no zygotes and as few processes as may be.
const args = [
    '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update',
    '--disable-domain-reliability', '--disable-sync', '--no-pings', '--no-zygote', '--mute-audio',
];

// A page's Math.random has its state in a process that the fork copies. This one takes each number from crypto.
const random = () => {
    const words = new Uint32Array(2);
    Math.random = function random() {
        crypto.getRandomValues(words);
        return ((words[0] >>> 5) * 67108864 + (words[1] >>> 6)) / 9007199254740992;
    };
};

// And crypto draws from a generator of BoringSSL's, one a thread, which is copied too. After 4096 draws it seeds itself again from the
// kernel's generator; so each child makes them (/etc/forkd/forked.eval), in every page.
const draw = () => {
    const byte = new Uint8Array(1);
    for (let i = 0; i < 4200; i++) crypto.getRandomValues(byte);
};
globalThis.forked = async () => {
    reseed();
    for (const context of browser.contexts()) for (const page of context.pages()) await page.evaluate(draw);
};

exports.ready = (async () => {
    globalThis.browser = await chromium.launch({ executablePath: '/usr/bin/chromium-headless-shell', headless: true, args, timeout: 300000 });
    globalThis.context = await browser.newContext({ viewport: { width: 1280, height: 720 } });
    await context.addInitScript(`if (globalThis.crypto?.getRandomValues) (${random})()`);
    globalThis.page = await context.newPage();
    page.setDefaultTimeout(120000);
    await page.goto('about:blank');
    await page.evaluate(random);
})();

exports.warm = [
    "await page.goto('data:text/html,<title>warm</title><h1>warm</h1><p id=x>text</p>'); return await page.title()",
    "await page.textContent('h1')",
    '(await page.screenshot()).length',
    "await page.evaluate(() => document.title + Math.random())",
    "await page.goto('about:blank'); await forked()",
];
