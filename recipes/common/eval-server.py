#!/usr/bin/env python3
"""eval-server.py [PRELUDE]: the eval endpoint of a warm guest (docs/agent.md), in Python.

A client sends a line, a JSON string with an expression; the answer is a line, {"ok": "<str of the value>"} or {"error": "<text>"}.
What is no expression is run as statements and answered with "". All requests share one namespace. A connection may carry any number
of requests; while it is open, others wait.

PRELUDE is a Python file that is run in that namespace first: what it imports is warm in every child. It may define
  handle(text)   what a request means, in place of Python: returns the answer or raises
  WARM           requests that are answered, and must not fail, before the endpoint listens
The command returns when the socket takes connections, and goes on in the background; it fails if the prelude or a request of WARM does.
"""
import gc
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from json.decoder import scanstring
from json.encoder import encode_basestring_ascii

from reseed import reseed

SOCKET = os.environ.get("FORKD_EVAL_SOCKET", "/run/forkd/eval.sock")
LONGEST = 64 << 20   # bytes of a request


def describe(error):
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException:   # an exception whose own text raises
        text = ""
    if getattr(error, "whole", False):
        return text   # a handler's: the text says it all
    return f"{name}: {text}" if text else name


def python(text, namespace):
    try:
        code = compile(text.strip(" \t\r\n"), "<eval>", "eval")
    except SyntaxError:
        code = None
    if code is None:
        exec(compile(text, "<eval>", "exec"), namespace)
        return ""
    return str(eval(code, namespace))


def evaluate(text, namespace, handle):
    try:
        return "ok", handle(text) if handle else python(text, namespace)
    except BaseException as error:   # SystemExit and KeyboardInterrupt too: the interpreter stays
        return "error", describe(error)


def reply(line, namespace, handle):
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
        key, text = evaluate(text, namespace, handle)
    if not text.isascii():
        # Half a surrogate pair is a str in Python, but in no other language's JSON.
        text = text.encode("utf-8", "replace").decode()
    return b'{"%s": %s}\n' % (key.encode(), encode_basestring_ascii(text).encode())


def send(connection, answer):
    while answer:
        answer = answer[os.write(connection, answer):]


def serve(connection, namespace, handle):
    line = b""
    while True:
        part = os.read(connection, 1 << 16)
        if not part:
            return   # the client has gone, perhaps in the middle of a request
        line += part
        while b"\n" in part:
            request, _, part = line.partition(b"\n")
            send(connection, reply(request, namespace, handle))
            line = part
        if len(line) >= LONGEST:
            send(connection, b'{"error": "a request may have %d bytes"}\n' % LONGEST)
            return


def warm(namespace, handle):
    """Sends the prelude's requests, and one that works everywhere, down the path that a client's will take. Code that runs for the first
    time in a child is slow where the processor is emulated."""
    for request in namespace.get("WARM", ["1 + 1"]):
        key, text = evaluate(request, namespace, handle)
        if key == "error":
            raise RuntimeError(f"{request!r}: {text}")
    ours, theirs = socket.socketpair()
    ours.sendall(b'"' + b"not an expression: \\u00e4" + b'"\n')
    ours.shutdown(socket.SHUT_WR)
    serve(theirs.fileno(), {}, None)
    ours.close(), theirs.close()
    time.time(), reseed()


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


def to_background():
    """Leaves the caller waiting in the process that it started, and goes on in another; before the prelude, which may open files and
    start threads, and these do not survive a fork. Returns what to call once all is ready: it lets the caller go."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))   # what the caller let through: nobody shall wait for its end
    reader, writer = os.pipe()
    if os.fork():
        os.close(writer)
        os._exit(0 if os.read(reader, 1) else 1)
    os.close(reader)
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")

    def ready():
        sys.stdout.flush()
        sys.stderr.flush()
        null = os.open(os.devnull, os.O_RDWR)
        for stdio in (0, 1, 2):
            os.dup2(null, stdio)
        os.close(null)
        sys.stdin = open(0, closefd=False)   # exit() closes it, and must not close the descriptor
        os.write(writer, b"+")
        os.close(writer)

    return ready


def main():
    prelude = sys.argv[1] if len(sys.argv) > 1 else None
    ready = to_background()
    namespace = {"__name__": "__main__", "random": random, "os": os, "time": time, "reseed": reseed}
    try:
        if prelude:
            with open(prelude) as file:
                exec(compile(file.read(), prelude, "exec"), namespace)
        handle = namespace.get("handle")
        warm(namespace, handle)
        listener = listen(SOCKET)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    gc.collect()
    gc.freeze()   # later collections leave these objects, and so the pages that the children share, alone
    ready()
    while True:
        try:
            # The descriptor only: a socket object of it takes more code than all the rest.
            connection, _ = listener._accept()
            try:
                serve(connection, namespace, handle)
            finally:
                os.close(connection)
        except OSError:
            time.sleep(0.01)   # the client broke off, or there are no descriptors left for the moment
        except MemoryError:
            gc.collect()


main()
