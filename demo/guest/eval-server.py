#!/usr/bin/env python3
"""The warm interpreter of a guest: Python with numpy loaded, waiting on a Unix socket.

A client sends a line, a JSON string with an expression; the answer is a line, {"ok": "<str of the value>"} or {"error": "<text>"}.
What is no expression is run as statements and answered with "". All requests share one namespace. A connection may carry any number
of requests; while it is open, others wait. The command returns when the socket takes connections and goes on in the background.
Its arguments are statements that it runs before, such as "import pandas as pd": what they import is warm too.
"""
import gc
import json
import os
import random
import signal
import socket
import sys
import time
from json.decoder import scanstring
from json.encoder import encode_basestring_ascii

import numpy

SOCKET = os.environ.get("FORKD_EVAL_SOCKET", "/run/forkd/eval.sock")
LONGEST = 64 << 20   # bytes of a request


def reseed():
    """Gives the global generators of random and numpy new seeds, so that the children of one snapshot draw different numbers.

    A generator that a program made itself before the freeze goes on where it stood: make it after the fork, or seed it again there."""
    random.seed()
    # A whole state of random words, which is quicker than to spread a seed over one.
    words = numpy.frombuffer(os.urandom(4 * 624), dtype=numpy.uint32)
    numpy.random.set_state(("MT19937", words, 624))


def warm():
    """Runs what numpy loads or sets up at its first use, so that it is in the snapshot and not paid for by every child."""
    matrix = numpy.random.default_rng().random((64, 64)) + 64 * numpy.eye(64)
    product = matrix @ numpy.linalg.inv(matrix)
    numpy.linalg.svd(product)
    numpy.fft.fft(product[0])
    numpy.sort(numpy.random.random(1000)).sum()
    random.random()
    str(product), json.loads(json.dumps("warm")), time.time()
    compile("1 + 1", "<eval>", "eval")


def describe(error):
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:   # an exception whose own text raises
        text = ""
    return f"{name}: {text}" if text else name


def evaluate(text, namespace):
    try:
        try:
            code = compile(text.strip(" \t\r\n"), "<eval>", "eval")
        except SyntaxError:
            code = None
        if code is None:
            exec(compile(text, "<eval>", "exec"), namespace)
            answer = ""
        else:
            answer = str(eval(code, namespace))
        return "ok", answer
    except BaseException as error:   # SystemExit and KeyboardInterrupt too: the interpreter stays
        return "error", describe(error)


def reply(line, namespace):
    """The answer to a request. It leaves out what json's front doors do more than its C functions: code that runs for the first time
    in a child is slow where the processor is emulated."""
    try:
        text = line.decode()
        start = len(text) - len(text.lstrip())
        if text[start:start + 1] != '"':
            json.loads(text)
            return b'{"error": "the request is not a JSON string"}\n'
        text, end = scanstring(text, start + 1)
        if line.decode()[end:].strip():
            raise ValueError("there is more after the string")
    except (ValueError, RecursionError) as error:
        key, text = "error", f"the request is not JSON: {error}"
    else:
        key, text = evaluate(text, namespace)
    if not text.isascii():
        # Half a surrogate pair is a str in Python, but in no other language's JSON.
        text = text.encode("utf-8", "replace").decode()
    return b'{"%s": %s}\n' % (key.encode(), encode_basestring_ascii(text).encode())


def send(connection, answer):
    while answer:
        answer = answer[os.write(connection, answer):]


def serve(connection, namespace):
    line = b""
    while True:
        part = os.read(connection, 1 << 16)
        if not part:
            return   # the client has gone, perhaps in the middle of a request
        line += part
        while b"\n" in part:
            request, _, part = line.partition(b"\n")
            send(connection, reply(request, namespace))
            line = part
        if len(line) >= LONGEST:
            send(connection, b'{"error": "a request may have %d bytes"}\n' % LONGEST)
            return


def listen(path):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
            sys.exit(f"eval-server: {path} is taken by a running server")
        except FileNotFoundError:
            pass
        except ConnectionRefusedError:
            os.unlink(path)   # left by a dead server
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    listener.bind(path)
    os.umask(old)
    listener.listen(64)
    return listener


def go_to_background(listener):
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os._exit(0)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for stdio in (0, 1, 2):
        os.dup2(null, stdio)
    os.closerange(3, listener.fileno())   # null, and what the caller let through: nobody shall wait for its end
    os.closerange(listener.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = open(0, closefd=False)   # exit() closes it, and must not close the descriptor


def main():
    namespace = {"__name__": "__main__", "numpy": numpy, "np": numpy, "random": random, "os": os, "time": time, "reseed": reseed}
    warm()
    for text in sys.argv[1:]:
        exec(text, namespace)
    listener = listen(SOCKET)
    gc.collect()
    gc.freeze()   # later collections leave these objects, and so the pages that the children share, alone
    go_to_background(listener)
    while True:
        try:
            # The descriptor only: a socket object of it takes more code than all the rest.
            connection, _ = listener._accept()
            try:
                serve(connection, namespace)
            finally:
                os.close(connection)
        except OSError:
            time.sleep(0.01)   # the client broke off, or there are no descriptors left for the moment
        except MemoryError:
            gc.collect()


main()
