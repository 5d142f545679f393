"""Films over HTTP: a real Serve application, asked by the openai client."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import time

import httpx
import openai
import pytest
import ray
from PIL import Image
from ray.util.state import list_actors

from engine.video import read_video

pytestmark = pytest.mark.cluster
PORT = 18_431
STORY = "A fox walks to the right through the forest."


@pytest.fixture(scope="module")
def server(ray_of_two, tmp_path_factory):
    """The address of a server that is up, with a storage of its own."""
    from ray import serve

    from cluster.client import close_studio, open_studio
    from cluster.store import Store
    from serving.api import ApiArgs, build

    storage = str(tmp_path_factory.mktemp("served"))
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(build(ApiArgs(storage=storage, workers=2)), name="dreamrunner", route_prefix="/")
    yield f"http://127.0.0.1:{PORT}"
    serve.shutdown()
    close_studio(open_studio(Store(storage), "cpu"))


@pytest.fixture(scope="module")
def client(server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", timeout=60)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_story_becomes_a_film(client, server) -> None:
    video = client.videos.create_and_poll(prompt=STORY, extra_body={"num_inference_steps": 4})
    assert video.status == "completed", video.error
    assert (video.progress, video.seconds) == (100, "3")
    film = client.videos.download_content(video.id).read()
    frames, fps = read_video(film)
    assert len(frames) == 24 and fps == 8
    sheet = client.videos.download_content(video.id, variant="spritesheet").read()
    assert Image.open(io.BytesIO(sheet)).width > 600
    again = client.videos.create(prompt=STORY, extra_body={"num_inference_steps": 4})
    assert (again.id, again.status) == (video.id, "completed")
    assert [v.id for v in client.videos.list()] == [video.id]


@pytest.mark.long
def test_proxy_and_replica_may_die(server) -> None:
    """While a film is made: Serve brings them back, and who asks notices no more than a pause."""
    told = {"prompt": STORY, "num_inference_steps": 30}
    video = httpx.post(f"{server}/v1/videos", json=told, timeout=60).json()
    for kind in ("ServeReplica", "ProxyActor"):
        found = list_actors(address=ray.get_runtime_context().gcs_address, limit=1000)
        (victim,) = [a.pid for a in found if a.state == "ALIVE" and a.class_name.startswith(kind)]
        os.kill(victim, signal.SIGKILL)
    assert video["status"] in ("queued", "in_progress")
    deadline = time.monotonic() + 300
    while video["status"] != "completed" and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"{server}/v1/videos/{video['id']}", timeout=30)
            video = answer.json() if answer.status_code == 200 else video
        time.sleep(0.2)
    assert video["status"] == "completed"
    assert httpx.post(f"{server}/v1/videos", json=told, timeout=60).json()["id"] == video["id"]
    frames, _ = read_video(httpx.get(f"{server}/v1/videos/{video['id']}/content", timeout=60).content)
    assert len(frames) == 24


def test_a_video_is_deleted_while_it_is_made(client, server) -> None:
    body = {"num_inference_steps": 50, "seed": 0, "priority": 3}
    video = client.videos.create(prompt=STORY, extra_body=body)
    assert client.videos.delete(video.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.videos.retrieve(video.id)
    assert video.id not in [v.id for v in client.videos.list()]
    again = client.videos.create(prompt=STORY, extra_body=body)  # goes on
    assert again.id == video.id and again.status in ("queued", "in_progress")
    client.videos.delete(video.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 20_001}, "prompt"),
        ({"prompt": STORY, "model": "sora-2"}, "model"),
        ({"prompt": STORY, "size": "1x1"}, "size"),
        ({"prompt": STORY, "seed": "many"}, "seed"),
        ({"prompt": STORY, "seed": -1}, "seed"),
        ({"prompt": STORY, "num_inference_steps": 1}, "num_inference_steps"),
        ({"prompt": STORY, "priority": "high"}, "priority"),
        ({"prompt": STORY, "mood": "sad"}, "mood"),
        ({"prompt": STORY, "input_reference": "https://example.org/x.png", "character": "ghost"}, "input_reference"),
        ({"prompt": STORY, "input_reference": "data:image/png;base64,AAAA", "character": "ghost"}, "characters.ghost"),
        ({"prompt": STORY, "input_reference": "data:image/png;base64,AAAA"}, "character"),
    ],
)
def test_bad_input_names_the_field(server, fields, param) -> None:
    answer = httpx.post(f"{server}/v1/videos", json=fields, timeout=30)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == param, error
    assert error["message"] and "\n" not in error["message"]


def test_what_is_not_there(server, client) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no video video_x"):
        client.videos.retrieve("video_x")
    assert httpx.get(f"{server}/v1/videos/..%2Flease/content").status_code == 404
    assert (
        httpx.post(f"{server}/v1/videos", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    )
    assert httpx.post(f"{server}/v1/videos", content=b"x", headers={"content-type": "text/plain"}).status_code == 415


def test_a_port_in_use_is_refused_before_ray_starts(server, capsys, tmp_path, monkeypatch) -> None:
    from serving.cli import main

    monkeypatch.setattr("ray.init", lambda *a, **k: pytest.fail("Ray was started"))
    assert main(["serve", "--port", str(PORT), "--storage", str(tmp_path)]) == 2
    assert f"--port {PORT}: cannot listen at 127.0.0.1:{PORT}" in capsys.readouterr().err
