// Loaded by eval-server.js: a request is a cell, whose answer begins with what it prints.
'use strict';
const util = require('node:util');

exports.handle = async (text, run) => {
    let printed = '';
    const write = process.stdout.write;
    process.stdout.write = process.stderr.write = (chunk, encoding, done) => {
        printed += typeof chunk === 'string' ? chunk : Buffer.from(chunk).toString();
        (typeof encoding === 'function' ? encoding : done)?.();
        return true;
    };
    try {
        const value = await run(text);
        if (value === undefined) return printed.replace(/\n$/, '');
        if (printed && !printed.endsWith('\n')) printed += '\n';
        return printed + (typeof value === 'string' ? value : util.inspect(value));
    } finally {
        process.stdout.write = process.stderr.write = write;
    }
};

exports.warm = ['1 + 1', "console.log('warm', {a: [1]})", 'await Promise.resolve(1)', 'reseed()'];
