"""A Jupyter kernel (IPython) that runs cells, one at a time."""
import sys

from jupyter_client.manager import KernelManager

# What the kernel runs first. No history: it is a database on the disk with a thread of its own.
FIRST = """
import sys
sys.path.append("/usr/local/lib/forkd")
from reseed import reseed
"""


class Kernel:
    def __init__(self, setup=""):
        # Unix sockets, so that nothing depends on the network; -m makes the kernel ours, whatever is installed under the name python3.
        self.manager = KernelManager(transport="ipc", connection_file="/run/forkd/kernel.json")
        self.manager.kernel_spec.argv = [sys.executable, "-Xfrozen_modules=off", "-m", "ipykernel_launcher", "-f", "{connection_file}", "--HistoryManager.enabled=False"]
        self.manager.start_kernel(cwd="/root")
        self.client = self.manager.blocking_client()
        self.client.start_channels(stdin=False, hb=False)
        self.client.wait_for_ready(timeout=300)
        self.run(FIRST + setup)

    def run(self, code):
        """What a cell prints, its result as text, and its pictures as data: URLs, each from a new line."""
        client = self.client
        cell = client.execute(code, allow_stdin=False, store_history=True)
        parts, failure = [], None

        def add(text, fresh=True):
            if fresh and parts and not parts[-1].endswith("\n"):
                parts.append("\n")
            parts.append(text)

        while True:
            message = client.get_iopub_msg(timeout=None)
            if message["parent_header"].get("msg_id") != cell:
                continue   # of a thread that an earlier cell left behind
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                add(content["text"], fresh=False)
            elif kind in ("execute_result", "display_data"):
                data = content["data"]
                png = data.get("image/png")
                add("data:image/png;base64," + png.replace("\n", "") if png else data.get("text/plain", ""))
            elif kind == "error":
                failure = f"{content['ename']}: {content['evalue']}" if content["evalue"] else content["ename"]
            elif kind == "status" and content["execution_state"] == "idle":
                break
        while client.get_shell_msg(timeout=None)["parent_header"].get("msg_id") != cell:
            pass
        text = "".join(parts)
        if failure is not None:
            raise CellFailed(failure, text)
        return text[:-1] if text.endswith("\n") else text


class CellFailed(Exception):
    whole = True   # eval-server.py shows the text as it is

    def __init__(self, failure, printed):
        super().__init__(printed + ("" if not printed or printed.endswith("\n") else "\n") + failure)
