// eval-server.js [PRELUDE]: the eval endpoint of a warm guest (docs/agent.md), in JavaScript.
//
// A client sends a line, a JSON string with a script; the answer is a line, {"ok": "<its value>"} or {"error": "<text>"}. The value is
// that of the last expression: a string as it is, undefined as "", all else as console.log would show it; a promise is waited for.
// All requests share one global scope, so what one declares the next finds. A script may use await; then what it declares
// with let, const or function is its own, and what it shall leave to the next it assigns without: `page2 = await …`. A name that was
// declared with let or const stays declared. Modules come with require; import() does not work in a script.
//
// PRELUDE is a CommonJS module that is loaded first and puts what it makes on globalThis. It may export
//   ready   a promise that is waited for
//   warm    scripts that are run, and must not fail, before the endpoint listens
//   handle  async (text, run) => value: what a request means, where it is not simply run(text)
'use strict';
const crypto = require('node:crypto');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const util = require('node:util');
const vm = require('node:vm');

const SOCKET = process.env.FORKD_EVAL_SOCKET || '/run/forkd/eval.sock';
const LONGEST = 64 << 20; // characters of a request

// Math.random has its state in V8, where nothing can seed it again: all children of a snapshot would draw the same numbers. This one
// (xoshiro128**) keeps its state here. It is not for secrets, and was not before.
const state = new Uint32Array(4);
const rotl = (x, k) => (x << k) | (x >>> (32 - k));
const next = () => {
    const result = Math.imul(rotl(Math.imul(state[1], 5), 7), 9) >>> 0;
    const t = state[1] << 9;
    state[2] ^= state[0];
    state[3] ^= state[1];
    state[1] ^= state[2];
    state[0] ^= state[3];
    state[2] ^= t;
    state[3] = rotl(state[3], 11);
    return result;
};
Math.random = function random() {
    return ((next() >>> 5) * 67108864 + (next() >>> 6)) / 9007199254740992;
};

// Run in each child (/etc/forkd/forked.eval). OpenSSL's generators, which crypto draws from, seed themselves again from the kernel's at
// the first use in a child: they do so when the clock says that the last time is an hour ago, and the recipe's warm command has
// them believe that they were seeded on the day before. Left are the numbers that crypto has drawn already and keeps for later:
// 128 for randomUUID, 1024 for randomInt. They are thrown away.
globalThis.reseed = () => {
    do crypto.randomFillSync(state); while (!state.some((word) => word));
    for (let i = 0; i < 128; i++) crypto.randomUUID();
    for (let i = 0; i < 1024; i++) crypto.randomInt(2);
};

// Half a surrogate pair is a string in JavaScript, but in no other language's JSON: it becomes U+FFFD.
const whole = (text) => (/[\ud800-\udfff]/.test(text) ? Buffer.from(text).toString() : text);

const show = (value) => (typeof value === 'string' ? value : value === undefined ? '' : util.inspect(value));

const describe = (error) => {
    try {
        return error instanceof Error || util.types.isNativeError(error) ? `${error.name}: ${error.message}` : show(error);
    } catch {
        return 'an error that cannot be shown';
    }
};

const script = (text) => new vm.Script(text, { filename: '<eval>' });

function compile(text) {
    // As an expression first, so that {a: 1} is an object and not a block.
    const forms = [`(${text}\n)`, text];
    if (/\bawait\b/.test(text)) forms.push(`(async () => (${text}\n))()`, `(async () => {${text}\n})()`);
    let failure;
    for (const form of forms) {
        try {
            return script(form);
        } catch (error) {
            failure = error;
        }
    }
    throw failure;
}

const run = async (text) => compile(text).runInThisContext();

async function reply(line, handle) {
    let text;
    try {
        text = JSON.parse(line);
    } catch (error) {
        return { error: `the request is not JSON: ${error.message}` };
    }
    if (typeof text !== 'string') return { error: 'the request is not a JSON string' };
    try {
        return { ok: whole(show(await handle(text, run))) };
    } catch (error) {
        return { error: whole(describe(error)) };
    }
}

function serve(connection, handle) {
    let parts = '';
    let turn = Promise.resolve(); // answers come in the order of the requests
    connection.setEncoding('utf8');
    connection.on('error', () => {});
    connection.on('data', (data) => {
        parts += data;
        if (!data.includes('\n')) {
            if (parts.length >= LONGEST) connection.end(`{"error": "a request may have ${LONGEST} characters"}\n`);
            return;
        }
        const lines = parts.split('\n');
        parts = lines.pop();
        for (const line of lines) {
            turn = turn.then(async () => {
                const answer = await reply(line, handle);
                if (!connection.destroyed) connection.write(JSON.stringify(answer) + '\n');
            });
        }
    });
    connection.on('end', () => turn.then(() => connection.end()));
}

// Sends requests over the real path before anyone else can: code that runs for the first time in a child is slow where the processor is
// emulated.
async function warm(file, requests) {
    const connection = net.connect(file);
    let answers = '';
    connection.setEncoding('utf8');
    for (let round = 0; round < 3; round++) {
        for (const request of requests) {
            connection.write(JSON.stringify(request) + '\n');
            answers = '';
            while (!answers.endsWith('\n')) {
                answers += await new Promise((resolve, reject) => connection.once('data', resolve).once('error', reject));
                connection.removeAllListeners('error');
            }
            if (JSON.parse(answers).error !== undefined) throw new Error(`${request}: ${JSON.parse(answers).error}`);
        }
    }
    connection.destroy();
}

async function main() {
    process.on('SIGHUP', () => {});
    process.on('uncaughtException', (error) => console.error(error)); // a request's, later than its answer: the process stays
    process.on('unhandledRejection', (error) => console.error(error));
    globalThis.require = require('node:module').createRequire('/');
    globalThis.crypto ??= crypto.webcrypto;
    const prelude = process.argv[2] ? require(path.resolve(process.argv[2])) : {};
    await prelude.ready;
    const handle = prelude.handle ?? ((text) => run(text));
    reseed();
    const server = net.createServer({ allowHalfOpen: true }, (connection) => serve(connection, handle));
    const file = `${SOCKET}.new`;
    fs.mkdirSync(path.dirname(SOCKET), { recursive: true });
    fs.rmSync(file, { force: true });
    process.umask(0o177);
    server.listen(file, async () => {
        process.umask(0o022);
        await warm(file, prelude.warm ?? ['1 + 1', 'await 1', '({a: [1]})', 'reseed()']).catch(fail);
        process.exit = (code) => {
            throw new Error(`process.exit(${code ?? ''}): this process stays`);
        };
        fs.renameSync(file, SOCKET); // clients find it when all is ready, not before
    });
}

const exit = process.exit;
function fail(error) {
    console.error(error);
    exit(1);
}

main().catch(fail);
