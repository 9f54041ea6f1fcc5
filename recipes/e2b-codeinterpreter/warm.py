"""Run in the eval server before the freeze: starts the Python kernel, finds the Node process, and sends each cell to the one it is for.

A request is "python: CODE", "js: CODE", {"language": "python" or "js", "code": CODE}, or just Python; "all: CODE" goes to both."""
import json
import os
import re
import socket
import time

from jupyter import Kernel

NODE = "/run/forkd/node.sock"


class Failed(Exception):
    whole = True   # eval-server.py shows the text as it is


def javascript(code):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(NODE)
        connection.sendall(json.dumps(code).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            part = connection.recv(1 << 16)
            if not part:
                raise Failed("Node.js has ended")
            answer += part
    answer = json.loads(answer)
    if "error" in answer:
        raise Failed(answer["error"])
    return answer["ok"]


def handle(text):
    language, code = "python", text
    if text.lstrip().startswith("{"):
        try:
            request = json.loads(text)
            language, code = request["language"], request["code"]
        except (ValueError, KeyError):
            pass   # a set or a dictionary in Python
    elif match := re.match(r"\s*(python|py|javascript|js|all):[ \n]?", text):
        language, code = match[1], text[match.end():]
    if language in ("python", "py"):
        return kernel.run(code)
    if language in ("javascript", "js"):
        return javascript(code)
    if language == "all":
        return kernel.run(code) + javascript(code)
    raise Failed(f"no such language: {language}")


kernel = Kernel("""
import numpy as np
import pandas as pd
import matplotlib
%matplotlib inline
import matplotlib.pyplot as plt
""")
while not os.path.exists(NODE):
    time.sleep(0.2)

WARM = [
    "python: 1 + 1",
    "print('warm')",
    "plt.plot([1, 2]); plt.title('warm'); plt.show()",
    "pd.DataFrame({'a': np.random.random(9), 'b': list('abcabcabc')}).groupby('b').mean()",
    "js: 1 + 1",
    '{"language": "js", "code": "console.log(1)"}',
    "all: reseed()",
]
try:
    kernel.run("1 / 0")   # how an error is told is code too
except Exception:
    pass
