"""The motion library: captioned clips in LanceDB, and the four steps that find those which show a motion.

Source: method.md section 2 (paper, section 3.2). Step 3 there, cutting footage into segments centred on a tracked
subject, happens to a clip before it is added and has its place in `Library._read`; nothing is cut yet, since the
miniature's clips show one subject each.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from itertools import islice
from operator import length_hint
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import FTS
from pydantic import BaseModel, ConfigDict, Field

from engine.errors import InputError
from engine.models import Bundle
from engine.scorers import Scorers, sample
from engine.video import encode_video, read_video

TABLE = "clips"
BATCH = 32  # clips embedded and written at once
FACTS = ("id", "caption", "seconds", "frames", "width", "height")
T = TypeVar("T")
COMMON = {"a", "an", "and", "at", "in", "is", "it", "of", "on", "the", "to", "up", "with"}  # not worth counting

Report = Callable[[int, int], None]  # (done, total); total is 0 while nobody knows it


class Captioned(NamedTuple):
    """A clip to be added: its caption, its file's bytes (whatever PyAV reads), and what to call it in reports."""

    caption: str
    video: bytes
    name: str = ""


class Skipped(NamedTuple):
    name: str
    why: str


class Added(NamedTuple):
    """What `Library.add` did: clips that are new, that were there before, and that could not be read."""

    added: int
    known: int
    skipped: tuple[Skipped, ...]


class RetrievalSettings(BaseModel):
    """The numbers of the four steps; the defaults are the method's, for real footage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidates: Annotated[int, Field(ge=1)] = 400  # step 1: kept of BM25's ranking
    min_seconds: Annotated[float, Field(ge=0)] = 2.0  # step 2
    min_frames: Annotated[int, Field(ge=1)] = 40
    min_aspect: Annotated[float, Field(ge=0)] = 0.9  # width / height
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.2  # step 4: of the mean of both scorers' cosines
    most: Annotated[int, Field(ge=1)] = 20
    least: Annotated[int, Field(ge=1)] = 4  # the best so many are taken even below the threshold

    @classmethod
    def for_bundle(cls, bundle: Bundle) -> RetrievalSettings:
        """The method's numbers, but no clip need be longer than those that the model itself makes."""
        return cls(
            min_seconds=min(2.0, bundle.num_frames / bundle.fps),
            min_frames=min(40, bundle.num_frames),
        )


class Candidate(BaseModel):
    """A clip that one of the steps kept. `score` is the mean of `clip` and `xclip`, cosines in -1..1; None where the
    bundle has no scorers."""

    model_config = ConfigDict(frozen=True)

    id: str
    caption: str
    bm25: float
    clip: float | None = None
    xclip: float | None = None
    score: float | None = None


class Step(BaseModel):
    """What a step kept, best first, and how many it dropped for which reason."""

    model_config = ConfigDict(frozen=True)

    name: Literal["words", "attributes", "scorers"]
    kept: tuple[Candidate, ...]
    dropped: dict[str, int]


class Retrieval(BaseModel):
    """How a motion's clips were found; the storyboard shows it."""

    model_config = ConfigDict(frozen=True)

    motion: str
    query: str
    clips: int  # in the library
    settings: RetrievalSettings
    steps: tuple[Step, ...]

    @property
    def selected(self) -> tuple[Candidate, ...]:
        """The clips to learn from."""
        return self.steps[-1].kept


class Stats(BaseModel):
    """What a library holds. `sizes`: "112x64" -> clips; `words`: the most frequent of the captions -> clips."""

    clips: int
    seconds: float
    stored_bytes: int
    sizes: dict[str, int]
    words: dict[str, int]


class Library:
    """The library of a bundle at a folder or URL (s3://..., gs://...), opened or begun. Each clip's row holds its video
    and what the bundle's scorers make of it; the table's metadata names those scorers."""

    def __init__(self, url: str, bundle: Bundle) -> None:
        self.url, self.bundle = url, bundle
        scorers = bundle.library.scorers
        self.scorers = Scorers(bundle.folder / scorers) if scorers else None
        try:
            # other processes may add at any time: look at each reading
            self.db = lancedb.connect(url, read_consistency_interval=timedelta(0))
            there = TABLE in self.db.list_tables().tables  # with its own schema, if other scorers embedded it
            self.table = self.db.open_table(TABLE) if there else self._create(exist_ok=True)
        except (OSError, ValueError, RuntimeError) as error:
            why = str(error).splitlines()[0]
            raise InputError(
                f"library {url}: cannot be opened ({why}); is --storage a place that you may write?"
            ) from None

    # filling

    def prepare(self, report: Report = lambda done, total: None) -> None:
        """What must be done before the first search: fills a new library, and embeds all clips again when the scorers
        are not those that embedded them."""
        if self._embedded_by != self._scorers_name:
            self._embed_again(report)
        self.fill_if_empty(report)

    def fill_if_empty(self, report: Report = lambda done, total: None) -> None:
        """Adds the bundle's own first clips to a library without any: all in one commit, so that a process killed
        meanwhile leaves none of them, and two that fill at once leave each clip once."""
        source = self.bundle.library.clips
        if source and not len(self):
            module, function = source.split(":")
            self._add(getattr(importlib.import_module(module), function)(), report, at_once=True)

    def add(self, clips: Iterable[Captioned], report: Report = lambda done, total: None) -> Added:
        """Adds clips that are not there yet, by the sha256 of their files, a batch at a time. What cannot be read is
        left out and named in the result."""
        return self._add(clips, report)

    def _add(self, clips: Iterable[Captioned], report: Report, at_once: bool = False) -> Added:
        there, skipped = set(self._column("id")), []
        total, seen, added = length_hint(clips), 0, 0

        def rows() -> Iterator[dict[str, Any]]:
            nonlocal seen
            for clip in clips:
                key = hashlib.sha256(clip.video).hexdigest()
                if key not in there:
                    try:
                        yield self._read(key, clip)
                        there.add(key)
                    except InputError as error:
                        skipped.append(Skipped(clip.name or key[:12], str(error)))
                seen += 1
                report(seen, total)

        batches: Iterator[pa.Table] = (self._embed(batch) for batch in _batches(rows()))
        if at_once:
            batches = iter([pa.concat_tables(list(batches))])
        for batch in batches:
            added += self.table.merge_insert("id").when_not_matched_insert_all().execute(batch).num_inserted_rows
        if added:
            self._index()
        return Added(added, seen - added - len(skipped), tuple(skipped))

    def _read(self, key: str, clip: Captioned) -> dict[str, Any]:
        """A clip's row, and under "pixels" those of its frames that the scorers see. Cutting a clip into several
        segments belongs here. Raises InputError."""
        if not clip.caption.strip():
            raise InputError("it has no caption; write one into a .txt file of the same name, or into captions.csv")
        frames, rate = read_video(clip.video)
        if len(frames) < 2:
            raise InputError("it has one frame only, so nothing moves")
        height, width = frames.shape[1] // 2 * 2, frames.shape[2] // 2 * 2  # H.264 wants even sides
        if not height or not width:
            raise InputError(f"its picture has {frames.shape[2]} x {frames.shape[1]} pixels")
        frames = frames[:, :height, :width]
        is_mp4 = clip.video[4:8] == b"ftyp"
        return {
            "id": key, "caption": " ".join(clip.caption.split()), "seconds": float(len(frames) / rate),
            "frames": len(frames), "width": width, "height": height, "pixels": sample(frames),
            "video": clip.video if is_mp4 else encode_video(frames, max(1, round(rate))),
        }  # fmt: skip

    def _embed(self, rows: Sequence[dict[str, Any]]) -> pa.Table:
        """The rows as the table wants them, with the scorers' embeddings of their "pixels"."""
        columns = {name: [row[name] for row in rows] for name in (*FACTS, "video")}
        if self.scorers:
            embedded = self.scorers.embed_clips([row["pixels"] for row in rows])
            columns |= {"clip_embedding": list(embedded.clip), "xclip_embedding": list(embedded.xclip)}
        return pa.table(columns, schema=self._schema)

    def _embed_again(self, report: Report) -> None:
        total, done = len(self), 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal done
            ids = self._column("id")
            for keys in _batches(ids):
                rows = self._rows(keys, (*FACTS, "video"))
                yield from self._embed(
                    [{**row, "pixels": sample(read_video(row["video"])[0])} for row in rows]
                ).to_batches()
                done += len(keys)
                report(done, total)

        new = pa.RecordBatchReader.from_batches(self._schema, batches()) if total else None
        self.table = self._create(new, mode="overwrite")
        if total:
            self._index()

    def _index(self) -> None:
        """Brings the full-text index up to date. Stems, so that "is spinning" is found by "spins"."""
        if not any(index.columns == ["caption"] for index in self.table.list_indices()):
            self.table.create_index("caption", config=FTS(stem=True))
        self.table.optimize()

    # asking

    def __len__(self) -> int:
        return self.table.count_rows()

    @property
    def fingerprint(self) -> str:
        """sha256 of all that a search's answer depends on beside its question: clips, captions and scorers."""
        rows = self._facts(("id", "caption"))
        digest = hashlib.sha256(self._scorers_name.encode())
        for row in sorted((row["id"], row["caption"]) for row in rows):
            digest.update("\0".join(row).encode() + b"\n")
        return digest.hexdigest()

    def clip(self, key: str) -> bytes:
        """A clip's video, mp4. Raises KeyError."""
        rows = self._rows([key], ("video",))
        if not rows:
            raise KeyError(key)
        return rows[0]["video"]

    def search(self, text: str, limit: int = 10) -> list[Candidate]:
        """The clips whose captions share a word with the text, in the scorers' order."""
        return self._score(text, self._find(text, RetrievalSettings().candidates))[:limit]

    def retrieve(self, motion: str, settings: RetrievalSettings | None = None) -> Retrieval:
        """The clips that show the motion, by the four steps. Raises InputError when there is none."""
        s = settings or RetrievalSettings.for_bundle(self.bundle)
        query = self.bundle.library.query.format(motion=motion)
        # the query's other words ("a person is") may be in every caption: one at least must have the motion's own
        found = self._find(query, s.candidates) if self._find(motion, 1) else []
        if not found:
            raise InputError(
                f"motion {motion!r}: no clip of the library at {self.url} has a caption with any of its words; "
                f"add clips that show it with `dreamrunner library add FOLDER`"
            )
        clips = len(self)
        words = Step(
            name="words", kept=tuple(_candidate(row) for row in found),
            dropped=_some({f"no word in common, or beyond the best {s.candidates}": clips - len(found)}),
        )  # fmt: skip
        faults = [_fault(row, s) for row in found]
        sound = [row for row, fault in zip(found, faults, strict=True) if not fault]
        if not sound:
            why = ", ".join(f"{n} {fault}" for fault, n in Counter(faults).items())
            raise InputError(
                f"motion {motion!r}: the library at {self.url} has clips for it, but none that can be learned from "
                f"({why}); add others with `dreamrunner library add FOLDER`"
            )
        attributes = Step(
            name="attributes", kept=tuple(_candidate(row) for row in sound), dropped=dict(Counter(filter(None, faults)))
        )
        scored = self._score(query, sound)
        good = [c for c in scored if c.score is None or c.score > s.threshold]
        kept = good[: s.most] if len(good) >= s.least else scored[: s.least]
        low = len(scored) - max(len(good), len(kept))
        scorers = Step(
            name="scorers", kept=tuple(kept),
            dropped=_some({
                f"score of {s.threshold} or less": low, f"beyond the best {s.most}": len(scored) - low - len(kept)
            }),
        )  # fmt: skip
        return Retrieval(motion=motion, query=query, clips=clips, settings=s, steps=(words, attributes, scorers))

    def stats(self) -> Stats:
        rows = self._facts(FACTS)
        sizes = Counter(f"{row['width']}x{row['height']}" for row in rows)
        words = Counter(word for row in rows for word in set(re.findall(r"\w+", row["caption"].lower())) - COMMON)
        return Stats(
            clips=len(rows), seconds=round(sum(row["seconds"] for row in rows), 1),
            stored_bytes=int(self.table.stats()["total_bytes"]), sizes=dict(sizes.most_common()),
            words=dict(words.most_common(12)),
        )  # fmt: skip

    # reading the table

    @cached_property
    def _schema(self) -> pa.Schema:
        kinds = (pa.string(), pa.string(), pa.float64(), pa.int32(), pa.int32(), pa.int32())
        fields = [*zip(FACTS, kinds, strict=True), ("video", pa.large_binary())]
        if self.scorers:
            fields += [
                ("clip_embedding", pa.list_(pa.float32(), self.scorers.clip.size)),
                ("xclip_embedding", pa.list_(pa.float32(), self.scorers.xclip.size)),
            ]
        return pa.schema(fields, {"scorers": self._scorers_name})

    def _create(self, rows: pa.RecordBatchReader | None = None, **options: Any) -> Any:
        return self.db.create_table(TABLE, rows, schema=self._schema, **options)

    @property
    def _scorers_name(self) -> str:
        return self.scorers.fingerprint if self.scorers else "none"

    @property
    def _embedded_by(self) -> str:
        return (self.table.schema.metadata or {}).get(b"scorers", b"none").decode()

    def _column(self, name: str) -> list[Any]:
        return [row[name] for row in self._facts((name,))]

    def _facts(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns of every row."""
        return self.table.search().select(list(names)).limit(max(len(self), 1)).to_list()

    def _rows(self, keys: Sequence[str], names: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns of the clips with these ids."""
        assert all(key.isalnum() for key in keys), "ids are hexadecimal"
        chosen = ", ".join(f"'{key}'" for key in keys)
        return self.table.search().where(f"id IN ({chosen})").select(list(names)).limit(len(keys)).to_list()

    def _find(self, text: str, limit: int) -> list[dict[str, Any]]:
        """BM25's best clips for the text: rows with `_score`, best first, equals by id."""
        if not len(self):
            return []
        names = [*FACTS, *(("clip_embedding", "xclip_embedding") if self.scorers else ()), "_score"]
        query = self.table.search(text, query_type="fts", fts_columns="caption").select(names).limit(limit)
        return sorted(query.to_list(), key=lambda row: (-row["_score"], row["id"]))

    def _score(self, text: str, rows: Sequence[dict[str, Any]]) -> list[Candidate]:
        """Candidates with their scores for the text, best first; without scorers as they come."""
        if not self.scorers or not rows:
            return [_candidate(row) for row in rows]
        asked = self.scorers.embed_texts([text])
        clip = np.array([row["clip_embedding"] for row in rows]) @ asked.clip[0]
        xclip = np.array([row["xclip_embedding"] for row in rows]) @ asked.xclip[0]
        scored = [
            _candidate(row, clip=c, xclip=x, score=(c + x) / 2)
            for row, c, x in zip(rows, clip.tolist(), xclip.tolist(), strict=True)
        ]
        return sorted(scored, key=lambda candidate: (-(candidate.score or 0.0), candidate.id))


def _candidate(row: dict[str, Any], **scores: float) -> Candidate:
    shown = {name: round(score, 4) for name, score in {"bm25": row["_score"], **scores}.items()}
    return Candidate(id=row["id"], caption=row["caption"], **shown)


def _fault(row: dict[str, Any], s: RetrievalSettings) -> str:
    """Why step 2 drops the clip; empty when it does not."""
    if row["seconds"] < s.min_seconds:
        return f"shorter than {s.min_seconds:g} s"
    if row["frames"] < s.min_frames:
        return f"of fewer than {s.min_frames} frames"
    if row["width"] / row["height"] < s.min_aspect:
        return f"narrower than {s.min_aspect:g} of their height"
    return ""


def _some(counts: dict[str, int]) -> dict[str, int]:
    return {reason: n for reason, n in counts.items() if n}


def _batches(items: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
