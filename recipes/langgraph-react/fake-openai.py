"""A model that is none: the part of OpenAI's API that a ReAct agent needs, on 127.0.0.1:8080, with the same answers each time.

A question with "N times M" or a URL is answered with a call of the tool for it, and a tool's result with that result. Set
OPENAI_BASE_URL for agent.py to use a real model."""
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def message(messages, tools):
    last = messages[-1]
    text = str(last.get("content") or "")
    if last["role"] == "tool":
        return {"role": "assistant", "content": f"The tool says: {text}"}
    call = None
    if product := re.search(r"(\d+) times (\d+)", text):
        call = "multiply", {"a": int(product[1]), "b": int(product[2])}
    elif url := re.search(r"https?://\S+", text):
        call = "get", {"url": url[0]}
    if call and call[0] in tools:
        function = {"name": call[0], "arguments": json.dumps(call[1])}
        return {"role": "assistant", "content": None, "tool_calls": [{"id": f"call_{len(messages)}", "type": "function", "function": function}]}
    return {"role": "assistant", "content": "I do not know."}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer(b"hello from the guest", "text/plain")

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = message(request["messages"], [tool["function"]["name"] for tool in request.get("tools", [])])
        choice = {"index": 0, "message": reply, "finish_reason": "tool_calls" if "tool_calls" in reply else "stop"}
        body = {"id": "fake", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice],
                "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}
        self.answer(json.dumps(body).encode(), "application/json")

    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


ThreadingHTTPServer(("127.0.0.1", 8080), Handler).serve_forever()
