"""Films over HTTP, in the shape of OpenAI's videos: `serve run serving.api:build`, or `make serve`.

    POST /v1/videos                 a story -> a video that is queued
    GET  /v1/videos/{id}            its status and progress
    GET  /v1/videos                 all of them, newest first
    GET  /v1/videos/{id}/content    the film (variant=video), or its contact sheet (variant=spritesheet)
    DELETE /v1/videos/{id}          no longer listed; what is under way for it ends

Replicas hold no state: what was asked for lies in the storage, what becomes of it the studio knows. The same story,
seed and settings are the same video, however often they are posted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import ray
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application
from rich.console import Console
from starlette.datastructures import UploadFile

from cluster.client import close_studio, open_studio
from cluster.films import FilmRequest, keep_image, request_of
from cluster.local import NAMESPACE, gpus, ray_cluster
from cluster.store import DamagedResult
from engine.errors import InputError
from engine.models import load_bundle
from engine.story import MAX_IMAGE_BYTES, make_story
from serving.render import check_story, check_workers, execution_plan, open_store, render_settings

POLL_MS = 1000  # how often clients are asked to look
REQUESTS = "requests"  # folder of the storage: one object for each video that was asked for
MAX_BODY = 6 * MAX_IMAGE_BYTES
FIELDS = ("prompt", "model", "seconds", "size", "seed", "title", "character", "input_reference", "num_inference_steps",
          "guidance_scale", "priority")  # fmt: skip

Status = Literal["queued", "in_progress", "completed", "failed"]

http = FastAPI(title="DreamRunner", description="Stories in, films out.")


class ApiArgs(BaseModel):
    """What a server serves."""

    model_config = ConfigDict(extra="forbid")

    model: str = "miniature"
    storage: str = ".dreamrunner"
    workers: int | None = Field(None, ge=1, description="default: one per GPU, or two")


class Video(BaseModel):
    """OpenAI's video object. `seconds` is the film's length, "0" until its plan is made."""

    id: str
    object: Literal["video"] = "video"
    model: str
    status: Status
    progress: int = Field(ge=0, le=100)
    created_at: int
    completed_at: int | None = None
    expires_at: int | None = None
    prompt: str | None = None
    seconds: str
    size: str
    error: dict[str, str] | None = None
    remixed_from_video_id: str | None = None


class Asked(BaseModel):
    """What the storage remembers of a video that was asked for."""

    request: FilmRequest
    created_at: int
    priority: int = 0


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str = "invalid_value") -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


def _error(status: int, message: str, param: str | None, code: str) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status)


def _field(message: str) -> tuple[str | None, str]:
    """The field that an InputError names, and the message in HTTP's words instead of the command line's."""
    for option, field in (("--steps", "num_inference_steps"), ("--guidance", "guidance_scale")):
        if message.startswith(option):
            return field, message.replace(option, field, 1)
    if match := re.match(r"prompt: (characters\.[^:]+)", message):
        return match[1], message
    return ("prompt" if message.startswith("prompt") else None), message


@http.exception_handler(Refused)
async def _refused(_: Request, error: Refused) -> JSONResponse:
    return _error(error.status, str(error), error.param, error.code)


@http.exception_handler(InputError)
async def _bad_input(_: Request, error: InputError) -> JSONResponse:
    field, message = _field(str(error))
    return _error(400, message, field, "invalid_value")


@http.exception_handler(RequestValidationError)
async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    return _error(422, f"{field}: {first['msg']}", field, "invalid_value")


# Above the class: Serve takes a picture of it, and of the names that it can see, when it is decorated.


def _id(key: str) -> str:
    return f"video_{key}"


def _percent(jobs: list[dict[str, Any]]) -> int:
    """Progress 0..99: each job counts alike, one under way by its steps."""
    if not jobs or not any(job["kind"] == "scene" for job in jobs):
        return 0  # before the plan is there nobody knows how much there is to do
    parts = [1.0 if j["state"] == "done" else j["step"] / j["total"] if j["total"] else 0.0 for j in jobs]
    return min(99, int(100 * sum(parts) / len(parts)))


def _number(fields: dict[str, Any], name: str, kind: type[int] | type[float]) -> Any:
    """A number field, or None when it is not there. Raises Refused."""
    value = fields.get(name)
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool) or (kind is int and isinstance(value, float)):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError):
        what = "a whole number" if kind is int else "a number"
        raise Refused(400, f"{name}: {str(value)[:40]!r} is not {what}", name) from None


def _data_uri(value: Any) -> bytes:
    """A picture given as data: URI, or as OpenAI's {"image_url": data: URI}. URLs are not fetched. Raises Refused."""
    import base64

    if isinstance(value, str) and value.startswith("{"):
        value = json.loads(value) if value.endswith("}") else value
    if isinstance(value, dict):
        value = value.get("image_url")
    if isinstance(value, str) and value.startswith("data:image/") and ";base64," in value:
        try:
            return base64.b64decode(value.split(";base64,", 1)[1], validate=True)
        except ValueError:
            pass
    raise Refused(400, "input_reference: send a file, or a data:image/...;base64 URI", "input_reference")


@serve.deployment(name="Api", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=64)
@serve.ingress(http)
class Api:
    """One replica; any number may run."""

    def __init__(self, args: ApiArgs) -> None:
        self.args, self.bundle = args, load_bundle(args.model)
        self.store = open_store(args.storage)
        cuda = gpus()
        self.workers = args.workers or int(cuda) or 2
        self.execution = execution_plan(self.bundle, cuda > 0, self.workers, 1, 1)
        self.studio = open_studio(self.store, self.execution.device)

    @http.post("/v1/videos")
    async def create(self, request: Request) -> Video:
        """Asks for a film. multipart/form-data or JSON: `prompt` is the story; `input_reference` a picture of the one
        whom `character` names; `seed`, `num_inference_steps`, `guidance_scale`, `priority` as in `dreamrunner render`.
        `seconds` is a wish that a story does not keep: the answer says how long the film is."""
        fields = await self._fields(request)
        asked = await asyncio.to_thread(self._asked, fields)
        key = asked.request.key
        self.store.write_new(f"{REQUESTS}/{_id(key)}.json", asked.model_dump_json().encode())
        try:
            await self.studio.submit.remote(asked.request, self.workers, asked.priority)
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, InputError) else error from None
        return await self._video(_id(key))

    @http.delete("/v1/videos/{video_id}")
    async def delete(self, video_id: str) -> dict[str, Any]:
        """What was finished stays in the storage until `dreamrunner gc` clears it; a film that is whole, too."""
        asked = self._find(video_id)
        self.store.delete(f"{REQUESTS}/{video_id}.json")
        with contextlib.suppress(ray.exceptions.RayTaskError):  # nothing was under way
            await self.studio.cancel.remote(asked.request.key)
        return {"id": video_id, "object": "video.deleted", "deleted": True}

    @http.get("/v1/videos/{video_id}")
    async def retrieve(self, video_id: str, response: Response) -> Video:
        response.headers["openai-poll-after-ms"] = str(POLL_MS)
        return await self._video(video_id)

    @http.get("/v1/videos")
    async def videos(self, limit: int = 20, after: str | None = None) -> dict[str, Any]:
        """Newest first; `after` is the last id of the page before."""
        if not 1 <= limit <= 100:
            raise Refused(400, f"limit: {limit} is not in 1..100", "limit")
        names = [name.removesuffix(".json") for name in self.store.list(REQUESTS)]
        asked = sorted(((self._find(name).created_at, name) for name in names), reverse=True)
        ids = [name for _, name in asked]
        start = ids.index(after) + 1 if after in ids else 0
        data = [await self._video(name) for name in ids[start : start + limit]]
        first, last = (data[0].id, data[-1].id) if data else (None, None)
        more = start + limit < len(ids)
        return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}

    @http.get("/v1/videos/{video_id}/content")
    async def content(self, video_id: str, variant: str = "video") -> Response:
        """The film as mp4, or its contact sheet as PNG."""
        asked = self._find(video_id)
        if variant not in ("video", "spritesheet"):
            raise Refused(400, f"variant: {variant!r} is not one of video, spritesheet", "variant")
        film = asked.request.finished(self.store)
        if film is None:
            status = (await self._video(video_id)).status
            raise Refused(409, f"video {video_id} is {status}; ask again when it is completed", None, "not_ready")
        try:
            if variant == "video":
                return Response(self.store.get("film", film.key, "film.mp4"), media_type="video/mp4")
            return Response(await asyncio.to_thread(self._sheet, asked.request), media_type="image/png")
        except DamagedResult:
            await self.studio.submit.remote(asked.request, self.workers, asked.priority)
            raise Refused(
                409, f"video {video_id} was damaged in the storage and is made again", None, "not_ready"
            ) from None

    @http.get("/health")
    async def health(self) -> dict[str, str]:
        return {"status": "ok"}

    # what the routes share

    async def _fields(self, request: Request) -> dict[str, Any]:
        """The body's fields: strings, and bytes of an uploaded picture. Raises Refused."""
        if int(request.headers.get("content-length") or 0) > MAX_BODY:
            raise Refused(413, f"the body is larger than {MAX_BODY:,} bytes", None, "too_large")
        kind = request.headers.get("content-type", "").split(";")[0].strip()
        fields: dict[str, Any] = {}
        if kind == "application/json":
            try:
                fields = json.loads(await request.body())
            except ValueError:
                raise Refused(400, "the body is not valid JSON") from None
            if not isinstance(fields, dict):
                raise Refused(400, "the body must be a JSON object")
        elif kind in ("multipart/form-data", "application/x-www-form-urlencoded"):
            for name, value in (await request.form()).multi_items():
                fields[name] = await value.read() if isinstance(value, UploadFile) else value
        else:
            raise Refused(
                415, f"content-type {kind!r}: send multipart/form-data or application/json", None, "unsupported"
            )
        for name in fields:
            if name not in FIELDS:
                raise Refused(400, f"{name}: unknown field; known are {', '.join(FIELDS)}", name, "unknown_parameter")
        return fields

    def _asked(self, fields: dict[str, Any]) -> Asked:
        """A checked request from a body's fields. Raises Refused and InputError."""
        text = fields.get("prompt")
        if not isinstance(text, str):
            raise Refused(400, "prompt: the story is missing", "prompt", "missing_required_parameter")
        if fields.get("model", self.bundle.name) not in (self.bundle.name, self.args.model):
            raise Refused(400, f"model: {fields['model']!r} is not served here, {self.bundle.name} is", "model")
        if fields.get("size", self._size) != self._size:
            raise Refused(400, f"size: {self.bundle.name} makes {self._size}, not {fields['size']}", "size")
        pictures = {}
        if "input_reference" in fields:
            name, data = fields.get("character"), fields["input_reference"]
            if not isinstance(name, str) or not name:
                raise Refused(400, "character: say who is on input_reference, as the story names it", "character")
            if not isinstance(data, bytes):
                data = _data_uri(data)
            pictures = {name: [data]}
        title = fields.get("title") or ""
        story, images = make_story("prompt", title if isinstance(title, str) else "", text, pictures)
        check_story(story, self.bundle, "prompt")
        steps = _number(fields, "num_inference_steps", int)
        guidance = _number(fields, "guidance_scale", float)
        seed = _number(fields, "seed", int)
        if seed is not None and not 0 <= seed < 2**63:
            raise Refused(400, f"seed: {seed} must be 0 or more, and less than 2^63", "seed")
        priority = _number(fields, "priority", int) or 0
        for image in images.values():
            keep_image(self.store, image)
        request = request_of(
            self.bundle, self.args.model, self.store, story=story, seed=seed or 0, execution=self.execution,
            settings=render_settings(self.bundle, steps, guidance),
        )  # fmt: skip
        return Asked(request=request, created_at=int(time.time()), priority=priority)

    @property
    def _size(self) -> str:
        scale = self.bundle.view_scale
        return f"{self.bundle.width * scale}x{self.bundle.height * scale}"

    def _find(self, video_id: str) -> Asked:
        name = f"{REQUESTS}/{video_id}.json"
        data = self.store.read(name) if video_id.replace("_", "").isalnum() else None
        if data is None:
            raise Refused(404, f"there is no video {video_id}", "video_id", "not_found")
        return Asked.model_validate_json(data)

    async def _video(self, video_id: str) -> Video:
        asked = self._find(video_id)
        request = asked.request
        shared: dict[str, Any] = {
            "id": video_id, "model": self.bundle.name, "created_at": asked.created_at, "size": self._size,
            "prompt": request.story.text if request.story else None,
        }  # fmt: skip
        if film := request.finished(self.store):
            length = len(film.scenes) * self.bundle.num_frames / self.bundle.fps
            return Video(status="completed", progress=100, seconds=f"{length:g}", **shared)
        state = (await self.studio.status.remote([request.key]))[0]
        if state["state"] == "unknown":  # a studio that was closed forgot it: asking again goes on from the storage
            await self.studio.submit.remote(request, self.workers, asked.priority)
            state = (await self.studio.status.remote([request.key]))[0]
        failed = {"code": "film_failed", "message": state["error"]} if state["error"] else None
        if state["state"] == "cancelled":
            failed = {"code": "cancelled", "message": "the film was cancelled; ask for it again to go on"}
        begun = any(job["state"] != "waiting" for job in state["jobs"])
        status: Status = "failed" if failed else "in_progress" if begun else "queued"
        scenes = sum(job["kind"] == "scene" for job in state["jobs"])
        length = scenes * self.bundle.num_frames / self.bundle.fps
        return Video(status=status, progress=_percent(state["jobs"]), seconds=f"{length:g}", error=failed, **shared)

    def _sheet(self, request: FilmRequest) -> bytes:
        from serving.export import export

        with tempfile.TemporaryDirectory() as folder:
            export(self.store, request, Path(folder))
            return (Path(folder) / "contact.png").read_bytes()


def build(args: ApiArgs) -> Application:
    """The Serve application: `serve run serving.api:build model=miniature storage=/films`."""
    return Api.bind(args)  # type: ignore[attr-defined]


def serve_forever(
    host: str, port: int, model: str, storage: str, workers: int | None, address: str | None, console: Console
) -> None:
    """Starts (or joins) Ray, serves until interrupted. Raises InputError for what cannot be served."""
    load_bundle(model)
    check_workers(workers)
    store = open_store(storage)
    if address is None:
        _check_port(host, port)
    with ray_cluster(address, workers or 2):
        args = ApiArgs(model=model, storage=store.url, workers=workers)
        serve.start(http_options={"host": host, "port": port})
        serve.run(build(args), name=NAMESPACE, route_prefix="/")
        console.print(f"Serving {model} at http://{host}:{port}/v1/videos - storage {store.url} - Ctrl-C ends it")
        try:
            while True:
                time.sleep(1)
        finally:
            serve.delete(NAMESPACE)
            if address is None:
                close_studio(open_studio(store, "cuda" if gpus() else "cpu"))
                serve.shutdown()


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"--port {port}: cannot listen at {host}:{port} ({error.strerror}); use another") from None
