"""The planner behind an OpenAI-compatible endpoint: a small server of our own, and vLLM's (long)."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from actors.openai_chat import OpenAIChat
from engine.chat import dtype_of
from engine.errors import InputError
from engine.models import load_bundle
from engine.planner import plan_story
from engine.planner_model import model_path, planner_at, planner_of
from engine.story import Story

TEXT = "A fox walks right in the forest. A robot dances in the city."
OUTLINE = {
    "scenes": [
        {"sentences": [1], "place": "forest", "motions": ["walks right"]},
        {"sentences": [2], "place": "city", "motions": ["dances"]},
    ]
}


class Endpoint(ThreadingHTTPServer):
    """Answers like a language model that plans well; `fails` holds status codes that are given first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[dict] = []
        self.keys: list[str | None] = []
        self.fails: list[int] = []
        self.knows_schemas = True
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        self.server.keys.append(self.headers.get("Authorization"))
        status = self.server.fails.pop(0) if self.server.fails else 200
        if "response_format" in asked and not self.server.knows_schemas:
            status = 400
        question = asked["messages"][1]["content"]
        if "Lay out one scene" not in question:
            answer: dict = OUTLINE
        else:
            who, does = ("fox", "walks right") if question.endswith("forest.") else ("robot", "dances")
            answer = {"regions": [{"entity": who, "motion": does, "from": [10, 30, 50, 96]}]}
        text = f"Here it is: {json.dumps(answer)}" if not self.server.knows_schemas else json.dumps(answer)
        body = {"id": "1", "object": "chat.completion", "created": 0, "model": asked["model"], "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]}  # fmt: skip
        data = json.dumps(body if status == 200 else {"error": {"message": "no"}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch) -> Iterator[Endpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    endpoint = Endpoint()
    yield endpoint
    endpoint.shutdown()
    endpoint.server_close()


async def _planned(url: str, model: str = "some-model"):
    bundle = planner_at(load_bundle("miniature"), url, model)
    assert bundle.planner
    return await plan_story(Story(text=TEXT), bundle, OpenAIChat(bundle.planner), 7, lambda done, total: None)


async def test_a_story_is_planned_by_an_endpoint(endpoint, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint.fails = [429, 500]  # these pass
    planning = await _planned(endpoint.url)
    assert [(r.entity, r.motion) for scene in planning.plan.scenes for r in scene.regions] == [
        ("fox", "walks right"), ("robot", "dances"),
    ]  # fmt: skip
    assert len(endpoint.asked) == 3 + 2
    assert all(asked["response_format"]["json_schema"]["schema"]["type"] == "object" for asked in endpoint.asked)
    assert {(asked["model"], asked["temperature"]) for asked in endpoint.asked} == {("some-model", 0)}
    assert len({asked["seed"] for asked in endpoint.asked}) == 3  # the same when a question is sent again
    assert "Every sentence belongs to exactly one scene" in endpoint.asked[0]["messages"][1]["content"]  # untuned
    assert set(endpoint.keys) == {"Bearer sk-secret"}
    assert "sk-secret" not in json.dumps(planning.answers) + caplog.text


async def test_an_endpoint_that_knows_no_schemas_is_asked_without(endpoint) -> None:
    endpoint.knows_schemas = False
    planning = await _planned(endpoint.url)
    assert len(planning.plan.scenes) == 2
    assert sum("response_format" in asked for asked in endpoint.asked) == 1


@pytest.mark.parametrize(
    ("status", "why"),
    [(401, r"does not take the key in \$OPENAI_API_KEY"), (404, "has no model 'some-model'"), (418, "answered 418")],
)
async def test_what_an_endpoint_refuses_is_said_at_once(endpoint, status: int, why: str) -> None:
    endpoint.fails = [status]
    with pytest.raises(InputError, match=why) as refused:
        await _planned(endpoint.url)
    assert endpoint.url in str(refused.value)
    assert "sk-secret" not in str(refused.value)


async def test_an_endpoint_that_is_not_there(monkeypatch) -> None:
    monkeypatch.setattr("actors.openai_chat.RETRIES", 0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(InputError, match="cannot be reached"):
            await _planned(f"http://127.0.0.1:{free.getsockname()[1]}/v1")


@pytest.mark.parametrize(
    ("url", "model", "why"),
    [
        (None, "m", "say where it is with --planner-url"),
        ("http://h/v1", None, "name the model there with --planner-model"),
        ("ftp://h/v1", "m", "must look like http://"),
        ("http://key@h/v1", "m", "with no key in it"),
    ],
)
def test_what_names_no_endpoint(url, model, why: str) -> None:
    with pytest.raises(InputError, match=why) as refused:
        planner_at(load_bundle("miniature"), url, model)
    assert "key@" not in str(refused.value)


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_vllms_own_server_plans(tmp_path) -> None:
    """A small untuned model bound to the schema: a plan comes, whatever it is worth."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    bundle = load_bundle("miniature")
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model_path(bundle),
        "--served-model-name", "small", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "8192",
        "--dtype", dtype_of(planner_of(bundle)), "--enforce-eager",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", server)
        planning = await _planned(f"http://127.0.0.1:{port}/v1", "small")
        assert " ".join(scene.narration for scene in planning.plan.scenes) == TEXT
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


def _wait_for(url: str, server: subprocess.Popen, seconds: float = 600) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(1)
    raise AssertionError(f"{url} did not answer; the server's exit code: {server.poll()}")
