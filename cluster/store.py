"""Results under content keys, on any file system that fsspec knows: local, s3, gs. Whole or not at all.

<root>/results/<kind>/<key>/<name>        the result's files
<root>/results/<kind>/<key>/record.json   written last: version, sizes, sha256, notes. No record, no result.
<root>/journal/..., <root>/lease.json     small objects, each written once and whole
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
from pydantic import BaseModel

from engine.errors import InputError

VERSION = 1


class DamagedResult(Exception):
    """A stored file is not what its record says; it must be made again."""


def content_key(kind: str, revision: int, **inputs: Any) -> str:
    """The name of a result: sha256 of what it is made from. Inputs are JSON values or pydantic models."""
    plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in inputs.items()}
    text = json.dumps([kind, revision, plain], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class Store:
    """One storage URL or folder."""

    def __init__(self, url: str) -> None:
        self.url = url if "://" in url else str(Path(url).absolute())
        self.fs, self.root = fsspec.url_to_fs(self.url)
        self.local = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))

    def check_writable(self) -> None:
        """Raises InputError, before any work, when nothing can be kept here."""
        try:
            probe = f"probe-{uuid.uuid4().hex}"
            self.write(probe, b"")
            self.delete(probe)
        except Exception as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise InputError(
                f"--storage {self.url}: cannot write there ({why}); name a folder or bucket that you may write"
            ) from None

    # single objects

    def write(self, name: str, data: bytes) -> None:
        """One object, whole or not at all; replaces what was there."""
        path = f"{self.root}/{name}"
        if not self.local:
            self.fs.pipe_file(path, data)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = self._partial(target, data)
        partial.replace(target)

    def write_new(self, name: str, data: bytes) -> bool:
        """Like write, but False and no change when the object is there already: of two writers one wins."""
        path = f"{self.root}/{name}"
        if not self.local:
            try:
                self.fs.pipe_file(path, data, mode="create")
            except FileExistsError:
                return False
            return True
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = self._partial(target, data)
        try:
            os.link(partial, target)
        except FileExistsError:
            return False
        finally:
            partial.unlink()
        return True

    @staticmethod
    def _partial(target: Path, data: bytes) -> Path:
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return partial

    def read(self, name: str) -> bytes | None:
        """The object's bytes, or None when there is none."""
        try:
            return self.fs.cat_file(f"{self.root}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def delete(self, name: str) -> None:
        """Removes the object; it is no error when it was gone."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(f"{self.root}/{name}")

    def list(self, folder: str) -> list[str]:
        """Names of the objects in a folder, sorted; hidden ones are unfinished writes and are left out."""
        self.fs.invalidate_cache()
        try:
            found = self.fs.ls(f"{self.root}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        return sorted(n for n in (str(path).rstrip("/").rsplit("/", 1)[-1] for path in found) if not n.startswith("."))

    # results

    def put(self, kind: str, key: str, files: Mapping[str, bytes], notes: Mapping[str, Any]) -> None:
        """Keeps a result's files, then the record that makes them count."""
        place = f"results/{kind}/{key}"
        for name, data in files.items():
            self.write(f"{place}/{name}", data)
        about = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
        record = {"version": VERSION, "files": about, "notes": dict(notes)}
        self.write(f"{place}/record.json", json.dumps(record).encode())

    def record(self, kind: str, key: str) -> dict[str, Any] | None:
        """The result's record, or None when there is no such result."""
        data = self.read(f"results/{kind}/{key}/record.json")
        if data is None:
            return None
        try:
            record = json.loads(data)
        except ValueError:
            return None
        if record.get("version", 0) > VERSION:
            raise InputError(
                f"{self.url}: result {kind}/{key} was written by a newer version (record version {record['version']}, "
                f"this one reads up to {VERSION}); use that version or another --storage"
            )
        return record

    def notes(self, kind: str, key: str) -> dict[str, Any]:
        """How a result came about. Raises KeyError when there is none."""
        record = self.record(kind, key)
        if record is None:
            raise KeyError(f"{kind}/{key}")
        return record["notes"]

    def get(self, kind: str, key: str, name: str) -> bytes:
        """One file of a result, checked. Raises KeyError when there is none, DamagedResult when it is not itself."""
        record = self.record(kind, key)
        if record is None or name not in record["files"]:
            raise KeyError(f"{kind}/{key}/{name}")
        data = self.read(f"results/{kind}/{key}/{name}")
        if data is None or hashlib.sha256(data).hexdigest() != record["files"][name]["sha256"]:
            self.delete(f"results/{kind}/{key}/record.json")
            raise DamagedResult(f"{kind}/{key}/{name}")
        return data
