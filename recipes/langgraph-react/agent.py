"""Run in the interpreter before the freeze: a ReAct agent (the model calls tools until it has an answer), built and used once."""
import os
import socket
import subprocess
import sys
import time

import requests
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


@tool
def multiply(a: int, b: int) -> int:
    """The product of two whole numbers."""
    return a * b


@tool
def get(url: str) -> str:
    """What a web server answers, as text."""
    return requests.get(url, timeout=60).text


def build(model, tools):
    model = model.bind_tools(tools)
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "model")
    graph.add_conditional_edges("model", tools_condition)
    graph.add_edge("tools", "model")
    return graph.compile()


def ask(question):
    return agent.invoke({"messages": [("user", question)]})["messages"][-1].content


# Without a network in the guest; the model's place can be taken by a real one.
if not os.environ.get("OPENAI_BASE_URL"):
    nowhere = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    model_server = subprocess.Popen([sys.executable, "/usr/local/lib/forkd/fake-openai.py"], **nowhere)
    while True:
        try:
            socket.create_connection(("127.0.0.1", 8080)).close()
            break
        except ConnectionRefusedError:
            if model_server.poll() is not None:
                raise
            time.sleep(0.1)

agent = build(ChatOpenAI(
    model=os.environ.get("OPENAI_MODEL", "fake"),
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
    temperature=0,
    timeout=120,
), [multiply, get])

WARM = ["ask('What is 2 times 3?')", "ask('Who are you?')", "ask('What is at http://127.0.0.1:8080/warm ?')"]
