"""Results under content keys, on any file system that fsspec knows: local, s3, gs. Whole or not at all.

<root>/results/<kind>/<key>/<sha256[:16]>-<name>   the result's files; no two writers ever write different bytes there
<root>/results/<kind>/<key>/record.json            written last and once: version, sizes, sha256, notes. Without it
                                                   there is no result, and of several writers the first one's counts
<root>/journal/..., <root>/lease/...               small objects, each written whole
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from pydantic import BaseModel

from cluster.patience import PATIENCE_S, patiently
from engine.errors import InputError

FIELDS = {"version", "files", "notes"}
VERSION = 2  # of records. 1: files under their plain names, and no checksum of the record itself
T = TypeVar("T")


class DamagedResult(Exception):
    """A stored file is not what its record says; it must be made again."""


def content_key(kind: str, revision: int, **inputs: Any) -> str:
    """The name of a result: sha256 of what it is made from. Inputs are JSON values or pydantic models."""
    plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in inputs.items()}
    text = json.dumps([kind, revision, plain], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class Store:
    """One storage URL or folder. While it is away everything here waits for it, up to `patience` seconds."""

    def __init__(self, url: str, patience: float = PATIENCE_S) -> None:
        self.url = url if "://" in url else str(Path(url).absolute())
        self.patience = patience
        self.fs, self.root = fsspec.url_to_fs(self.url)
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def check_writable(self) -> None:
        """Raises InputError, before any work, when nothing can be kept here, or when of two writers both would win."""
        probe, now = f"probe-{uuid.uuid4().hex}", Store(self.url, patience=0)
        try:
            now.write_new(probe, b"one")
            exclusive = not now.write_new(probe, b"two") and now.read(probe) == b"one"
            now.delete(probe)
        except Exception as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise InputError(
                f"--storage {self.url}: cannot write there ({why}); name a folder or bucket that you may write"
            ) from None
        if not exclusive:
            raise InputError(
                f"--storage {self.url}: it ignores conditional writes (If-None-Match), by which jobs are claimed; use "
                "another storage"
            )

    # single objects

    def write(self, name: str, data: bytes) -> None:
        """One object, whole or not at all; replaces what was there."""
        if self.local:
            self._patiently(lambda: self._write_file(name, data, Path.replace))
        else:
            self._patiently(lambda: self.fs.pipe_file(f"{self.root}/{name}", data))

    def write_new(self, name: str, data: bytes, synced: bool = True) -> bool:
        """Like write, but False and no change when the object is there already: of two writers of different data one
        wins. A claim therefore names its writer. Not `synced`: a power failure may cost it."""
        try:
            if self.local:
                self._patiently(lambda: self._write_file(name, data, os.link, synced))
            else:
                self._patiently(lambda: self.fs.pipe_file(f"{self.root}/{name}", data, mode="create"))
        except OSError as error:
            if not _is_taken(error):
                raise
            return (
                not self.local and self.read(name) == data
            )  # by ourselves, when the answer to an earlier try was lost
        return True

    def _write_file(self, name: str, data: bytes, publish: Callable[[Path, Path], Any], synced: bool = True) -> None:
        """Writes beside the target; `publish` makes it appear. Both are on disk before this returns, if `synced`."""
        target = Path(self.root, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with partial.open("wb") as file:
                file.write(data)
                if synced:
                    file.flush()
                    os.fsync(file.fileno())
            publish(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        if not synced:
            return
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self, name: str) -> bytes | None:
        """The object's bytes, or None when there is none."""
        try:
            return self._patiently(lambda: self.fs.cat_file(f"{self.root}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def delete(self, name: str) -> None:
        """Removes the object; it is no error when it was gone."""
        with contextlib.suppress(FileNotFoundError):
            self._patiently(lambda: self.fs.rm_file(f"{self.root}/{name}"))

    def list(self, folder: str) -> list[str]:
        """Names of what is in a folder, sorted; hidden ones are unfinished writes and are left out."""
        try:
            found = self._patiently(lambda: self._fresh().ls(f"{self.root}/{folder}", detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)
        return sorted(name for name in names if name and not name.startswith("."))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of every object at any depth, by its name from the root; unfinished writes too."""
        place = f"{self.root}/{folder}".rstrip("/")
        found = self._patiently(lambda: self._fresh().find(place, detail=True))
        start = len(str(self.root)) + 1
        return {str(path)[start:]: about["size"] for path, about in found.items() if about["type"] == "file"}

    def _fresh(self) -> fsspec.AbstractFileSystem:
        self.fs.invalidate_cache()
        return self.fs

    def _patiently(self, action: Callable[[], T]) -> T:
        return patiently(action, self.url, self.patience)

    # results

    def put(self, kind: str, key: str, files: Mapping[str, bytes], notes: Mapping[str, Any]) -> bool:
        """Keeps a result's files, then the record that makes them count. False: another's came first, and stays."""
        about = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
        for name, data in files.items():
            self.write(_place(kind, key, name, about[name]), data)
        record = json.loads(json.dumps({"version": VERSION, "files": about, "notes": dict(notes)}))
        text = json.dumps({**record, "sha256": _digest(record)}).encode()
        while not self.write_new(f"results/{kind}/{key}/record.json", text):
            if self.record(kind, key) is not None:
                return False
            self.delete(f"results/{kind}/{key}/record.json")  # one that cannot be read
        return True

    def record(self, kind: str, key: str) -> dict[str, Any] | None:
        """The result's record, or None when there is no such result. Raises InputError for one of a newer version."""
        data = self.read(f"results/{kind}/{key}/record.json")
        try:
            record = json.loads(data or b"")
            checked = record.pop("sha256", None)
            version = record["version"]
            if checked != _digest(record) if checked or version == VERSION else set(record) != FIELDS:
                return None
            if version > VERSION:
                raise NewerVersion(self.url, f"result {kind}/{key}", version, VERSION)
            return record if isinstance(record["files"], dict) and isinstance(record["notes"], dict) else None
        except NewerVersion:
            raise
        except (ValueError, TypeError, KeyError):
            return None

    def notes(self, kind: str, key: str) -> dict[str, Any]:
        """How a result came about. Raises KeyError when there is none."""
        record = self.record(kind, key)
        if record is None:
            raise KeyError(f"{kind}/{key}")
        return record["notes"]

    def place(self, kind: str, key: str, name: str) -> str:
        """The object that holds one file of a result. Raises KeyError when there is none."""
        record = self.record(kind, key)
        if record is None or name not in record["files"]:
            raise KeyError(f"{kind}/{key}/{name}")
        return _places(kind, key, record)[name]

    def places(self, kind: str, key: str) -> set[str]:
        """All objects of a result; none when there is no such result."""
        record = self.record(kind, key)
        return set() if record is None else {*_places(kind, key, record).values(), f"results/{kind}/{key}/record.json"}

    def get(self, kind: str, key: str, name: str) -> bytes:
        """One file of a result, checked. Raises KeyError when there is none, DamagedResult when it is not itself."""
        record = self.record(kind, key)
        if record is None or name not in record["files"]:
            raise KeyError(f"{kind}/{key}/{name}")
        data = self.read(_places(kind, key, record)[name])
        if data is None or hashlib.sha256(data).hexdigest() != record["files"][name]["sha256"]:
            self.delete(f"results/{kind}/{key}/record.json")
            raise DamagedResult(f"{kind}/{key}/{name}")
        return data

    def remove(self, kind: str, key: str) -> None:
        """Takes a result out: its record first, so that it no longer counts."""
        record = f"results/{kind}/{key}/record.json"
        for name in sorted(self.places(kind, key), key=lambda name: name != record):
            self.delete(name)


def _is_taken(error: OSError) -> bool:
    """Whether a conditional write met an object; not every s3 server says so in the way that s3fs expects."""
    answer = getattr(error.__cause__, "response", {})
    return isinstance(error, FileExistsError) or answer.get("Error", {}).get("Code") in ("PreconditionFailed", "412")


class NewerVersion(InputError):
    """Something stored was written by a later DreamRunner than this one."""

    def __init__(self, url: str, what: str, version: int, known: int) -> None:
        super().__init__(
            f"{url}: {what} was written by a newer version (record version {version}, this one reads up to {known}); "
            "use that version or another --storage"
        )


def _place(kind: str, key: str, name: str, about: Mapping[str, Any]) -> str:
    return f"results/{kind}/{key}/{about['sha256'][:16]}-{name}"


def _places(kind: str, key: str, record: Mapping[str, Any]) -> dict[str, str]:
    """Where each file of a result lies."""
    if record["version"] < 2:
        return {name: f"results/{kind}/{key}/{name}" for name in record["files"]}
    return {name: _place(kind, key, name, about) for name, about in record["files"].items()}


def _digest(record: Mapping[str, Any]) -> str:
    """Every later version keeps this: a record is checked before its version is believed."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
