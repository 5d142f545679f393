"""The motion library: captioned segments of clips in LanceDB, and their videos as files beside the table.

A segment's row has its facts and what the bundle's scorers make of it; the table's metadata names those scorers. Three
indexes keep a million rows quick (benchmarks/library.py): BM25 over the captions, a vector index over the embeddings,
and B-trees over the names. An embedding is both scorers' unit vectors side by side, divided by the square root of two,
so that its cosine with a text's is the mean of both scorers' cosines: the vector index ranks by the method's own score.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any

import fsspec
import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import FTS, BTree, IvfSq
from pydantic import BaseModel

from engine.errors import InputError
from engine.library_settings import RetrievalSettings
from engine.models import Bundle
from engine.retrieval import Candidate, Found, Retrieval, four_steps
from engine.scorers import Embeddings, Scorers, fingerprint

TABLE, VIDEOS = "segments", "videos"
SCHEMA = (
    ("id", pa.string()), ("source", pa.string()), ("segment", pa.int32()), ("segments", pa.int32()),
    ("name", pa.string()), ("start", pa.float64()), ("caption", pa.string()), ("seconds", pa.float64()),
    ("frames", pa.int32()), ("width", pa.int32()), ("height", pa.int32()), ("presence", pa.float32()),
)  # fmt: skip
FACTS = ("id", "caption", "seconds", "frames", "width", "height", "presence")  # that the four steps ask for
COMMON = {"a", "an", "and", "at", "in", "is", "it", "of", "on", "the", "to", "up", "with"}  # not worth counting

# Below so many rows every embedding is looked at, which is exact and as quick; above, the index is told to look into
# NPROBES of its partitions and to measure REFINE times as many neighbours as are wanted by their exact distance.
VECTOR_INDEX_FROM = 20_000
ROWS_A_PARTITION = 2000
NPROBES, REFINE = 40, 2


class Stats(BaseModel):
    """What a library holds. `sizes`: "112x64" -> segments; `words`: the most frequent of the captions -> segments."""

    clips: int  # files
    segments: int
    seconds: float
    stored_bytes: int
    sizes: dict[str, int]
    words: dict[str, int]


class Library:
    """The library of a bundle at a folder or URL (s3://..., gs://...), opened or begun."""

    def __init__(self, url: str, bundle: Bundle, device: str = "cpu") -> None:
        self.url, self.bundle, self.device = url, bundle, device
        try:
            # other processes may add at any time: look at each reading
            self.db = lancedb.connect(url, read_consistency_interval=timedelta(0))
            there = TABLE in self.db.list_tables().tables  # with its own schema, if other scorers embedded it
            self.table = self.db.open_table(TABLE) if there else self._create(exist_ok=True)
            self.fs, root = fsspec.url_to_fs(url)
            self.videos = f"{root.rstrip('/')}/{VIDEOS}"
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            why = str(error).splitlines()[0]
            raise InputError(
                f"library {url}: cannot be opened ({why}); is --storage a place that you may write?"
            ) from None

    # writing

    def known(self, sources: Sequence[str]) -> set[str]:
        """Those files (sha256) all of whose segments are here."""
        rows = self._where("source", sources, ("source", "segments"), None)
        whole = dict(rows)
        return {source for source, n in Counter(source for source, _ in rows).items() if n >= whole[source]}

    def keep_video(self, key: str, video: bytes) -> None:
        """A segment's video, whole or not at all; before its row, so that no row is without."""
        self.fs.makedirs(self.videos, exist_ok=True)
        file = self.fs.open(f"{self.videos}/{key}.mp4", "wb", autocommit=False)
        file.write(video)
        file.close()
        file.commit()

    def embed(self, rows: Sequence[dict[str, Any]], pixels: Sequence[np.ndarray]) -> pa.Table:
        """Rows as the table wants them, with the scorers' embeddings of the clips' pixels, uint8 (T, H, W, 3)."""
        columns: dict[str, Any] = {name: [row[name] for row in rows] for name, _ in SCHEMA}
        if self.scorers:
            joined = join_embeddings(self.scorers.embed_clips(pixels))
            columns["embedding"] = pa.FixedSizeListArray.from_arrays(joined.ravel(), joined.shape[1])
        return pa.table(columns, schema=self.schema)

    def write(self, rows: pa.Table) -> int:
        """Rows, in one commit, unless their ids are here already; how many were new. Call `index` after the last."""
        return self.table.merge_insert("id").when_not_matched_insert_all().execute(rows).num_inserted_rows

    def index(self) -> None:
        """Brings the indexes up to date, or makes them. The words' has stems, so that "is spinning" is found by
        "spins", and no positions: nobody asks for phrases."""
        count, there = len(self), self.indexed
        wanted: dict[str, Any] = {"caption": FTS(stem=True, with_position=False), "id": BTree(), "source": BTree()}
        if "embedding" in self.table.schema.names and count >= VECTOR_INDEX_FROM:
            # a byte for each number: a quarter of the memory, and no codebook to train
            wanted["embedding"] = IvfSq(
                distance_type="cosine", num_partitions=max(1, count // ROWS_A_PARTITION), sample_rate=64,
                max_iterations=20,
            )  # fmt: skip
        for column in sorted(wanted.keys() - there):
            self.table.create_index(column, config=wanted[column])
        self.table.optimize()

    @property
    def indexed(self) -> set[str]:
        """The columns that have an index; without one on captions nothing can be asked."""
        return {column for index in self.table.list_indices() for column in index.columns}

    # asking

    def __len__(self) -> int:
        return self.table.count_rows()

    @property
    def fingerprint(self) -> str:
        """sha256 of all that a search's answer depends on beside its question: clips, captions and scorers."""
        rows = self._columns(("id", "caption")).sort_by("id")
        digest = hashlib.sha256(self.scorers_name.encode())
        for column in rows.columns:
            digest.update("\0".join(column.to_pylist()).encode() + b"\n")
        return digest.hexdigest()

    def clip(self, key: str) -> bytes:
        """A segment's video, mp4. Raises KeyError."""
        try:
            return self.fs.cat_file(f"{self.videos}/{key}.mp4")
        except FileNotFoundError:
            raise KeyError(key) from None

    def find(self, text: str, limit: int) -> Found:
        """BM25's best segments for the text, best first, equals by id."""
        if not len(self):
            return Found([], None)
        asked = self.table.search(text, query_type="fts", fts_columns="caption")
        found = self._found(asked.select([*self._asked_for, "_score"]).limit(limit).to_arrow())
        return found.pick(sorted(range(len(found)), key=lambda n: (-found.rows[n]["_score"], found.rows[n]["id"])))

    def nearest(self, vector: np.ndarray, limit: int, exact: bool = False) -> Found:
        """The segments whose embeddings have the greatest cosine with a unit vector (D,), best first; `exact` looks at
        every one of them."""
        if not len(self):
            return Found([], None)
        asked = self.table.search(vector, vector_column_name="embedding").distance_type("cosine")
        asked = asked.bypass_vector_index() if exact else asked.nprobes(NPROBES).refine_factor(REFINE)
        return self._found(asked.select([*self._asked_for, "_distance"]).limit(limit).to_arrow())

    def ask(self, text: str) -> Embeddings | None:
        """What the scorers make of a text; None where there are none."""
        return self.scorers.embed_texts([text]) if self.scorers else None

    def search(self, text: str, limit: int = 10) -> list[Candidate]:
        """The segments whose captions share a word with the text and those that look most like it, in the scorers'
        order; without scorers by words alone."""
        found, asked = self.find(text, self.bundle.library.retrieval.candidates), self.ask(text)
        hits = found.scored(asked)
        if asked is not None:
            by_words = {hit.id for hit in hits}
            looks = self.nearest(join_embeddings(asked)[0], limit).scored(asked)
            hits = sorted([*hits, *(c for c in looks if c.id not in by_words)], key=lambda c: (-(c.score or 0), c.id))
        return hits[:limit]

    def retrieve(self, motion: str, settings: RetrievalSettings | None = None) -> Retrieval:
        """The segments that show the motion, by the four steps. Raises InputError when there is none."""
        s, query = settings or self.bundle.library.retrieval, self.bundle.library.query.format(motion=motion)
        # the query's other words ("a person is") may be in every caption: one at least must have the motion's own
        found = self.find(query, s.candidates) if len(self.find(motion, 1)) else Found([], None)
        if not len(found):
            raise InputError(
                f"motion {motion!r}: no clip of the library at {self.url} has a caption with any of its words; "
                f"add clips that show it with `dreamrunner library add FOLDER`"
            )
        return four_steps(motion, query, len(self), found, lambda: self.ask(query), s)

    def stats(self) -> Stats:
        rows = self._columns(("source", "caption", "seconds", "width", "height")).to_pylist()
        sizes = Counter(f"{row['width']}x{row['height']}" for row in rows)
        words = Counter(word for row in rows for word in set(re.findall(r"\w+", row["caption"].lower())) - COMMON)
        return Stats(
            clips=len({row["source"] for row in rows}), segments=len(rows),
            seconds=round(sum(row["seconds"] for row in rows), 1), stored_bytes=self._stored_bytes(),
            sizes=dict(sizes.most_common()), words=dict(words.most_common(12)),
        )  # fmt: skip

    # the table

    @cached_property
    def scorers(self) -> Scorers | None:
        """Loaded when first needed: who only cuts clips needs none."""
        scorers = self.bundle.library.scorers
        return Scorers(self.bundle.folder / scorers, self.device) if scorers else None

    @cached_property
    def scorers_name(self) -> str:
        scorers = self.bundle.library.scorers
        return fingerprint(self.bundle.folder / scorers) if scorers else "none"

    @property
    def embedded_by(self) -> str:
        """The scorers that embedded the rows."""
        return (self.table.schema.metadata or {}).get(b"scorers", b"none").decode()

    @cached_property
    def schema(self) -> pa.Schema:
        fields: list[Any] = list(SCHEMA)
        if self.scorers:
            fields.append(("embedding", pa.list_(pa.float32(), self.scorers.clip.size + self.scorers.xclip.size)))
        return pa.schema(fields, {"scorers": self.scorers_name})

    def replace(self, batches: Iterable[pa.Table]) -> None:
        """All rows by these, in one commit."""
        rows = pa.RecordBatchReader.from_batches(self.schema, (b for table in batches for b in table.to_batches()))
        self.table = self._create(rows, mode="overwrite")
        self.index()

    def rows(self) -> list[dict[str, Any]]:
        """Every row without its embedding."""
        return self._columns([name for name, _ in SCHEMA]).to_pylist()

    def _create(self, rows: pa.RecordBatchReader | None = None, **options: Any) -> Any:
        return self.db.create_table(TABLE, rows, schema=self.schema, **options)

    @property
    def _asked_for(self) -> tuple[str, ...]:
        return (*FACTS, "embedding") if "embedding" in self.table.schema.names else FACTS

    def _found(self, rows: pa.Table) -> Found:
        if "embedding" not in rows.column_names:
            return Found(rows.to_pylist(), None)
        column = rows["embedding"].combine_chunks()
        vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(rows), column.type.list_size)
        size = self.scorers.clip.size if self.scorers else 0
        return Found(rows.drop_columns(["embedding"]).to_pylist(), split_embeddings(vectors, size))

    def _columns(self, names: Sequence[str]) -> pa.Table:
        """Some columns of every row."""
        return self.table.search().select(list(names)).limit(max(len(self), 1)).to_arrow()

    def _where(self, column: str, values: Sequence[str], names: Sequence[str], limit: int | None) -> list[tuple]:
        """Some columns of the rows with one of these values."""
        chosen = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
        rows = self.table.search().where(f"{column} IN ({chosen})").select(list(names)).limit(limit).to_arrow()
        return list(zip(*(rows[name].to_pylist() for name in names), strict=True))

    def _stored_bytes(self) -> int:
        videos = self.fs.du(self.videos) if self.fs.exists(self.videos) else 0
        return int(self.table.stats()["total_bytes"]) + videos


def join_embeddings(both: Embeddings) -> np.ndarray:
    """Unit vectors (N, D + D') whose cosines are the means of both scorers' cosines."""
    return (np.concatenate(both, 1) / np.sqrt(2)).astype(np.float32)


def split_embeddings(joined: np.ndarray, size: int) -> Embeddings:
    """Both scorers' vectors again, the first of `size` numbers."""
    both = joined * np.float32(np.sqrt(2))
    return Embeddings(both[:, :size], both[:, size:])
