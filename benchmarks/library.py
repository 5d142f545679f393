"""How quickly a large library answers: `python -m benchmarks.library --rows 1000000`. The last line is one JSON object.

Captions follow a small grammar whose words have Zipf's frequencies, "person" in 60 % of them. Vectors lie around 2,000
centres, so widely that a row's nearest other has a cosine of 0.8 on average (`nearest` says what it came out as). Each
kind of question is asked 500 times, one at a time, after 20 that are not counted. What is asked is the product's own
`Library`: `fts` is BM25 for 400 candidates and the attributes' filter, `vector` the 20 nearest by the index, `flat` the
same by looking at every row, `four_steps` the whole retrieval of a motion with the scorers' reading of the question
(random scorers of the miniature's size but 32 numbers each, so that an embedding has 64).
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
import typer
from rich.progress import track
from transformers import CLIPConfig, CLIPModel, XCLIPConfig, XCLIPModel

from engine.library import Library
from engine.models import Bundle, load_bundle
from engine.retrieval import attributes

DIMS, CENTRES, NEAREST = 64, 2000, 0.8
SEED, QUERIES, WARM, TOP = 7, 500, 20, 20
BATCH = 50_000  # rows written at once
SAMPLE = 200  # rows whose nearest other is looked for
SIZES = np.array([(640, 360), (1280, 720), (480, 480), (360, 640)])  # one in four is too narrow to learn from
WORDS = {"adjective": 2000, "noun": 8000, "verb": 3000, "adverb": 1000, "place": 6000}


class World(NamedTuple):
    """What the rows are made of. `vectors` (rows, DIMS), `questions` (QUERIES, DIMS): unit vectors, float32."""

    captions: list[str]
    motions: list[str]
    vectors: np.ndarray
    questions: np.ndarray
    nearest: float


def vocabulary(rng: np.random.Generator, count: int) -> list[str]:
    """Words that can be spoken and mean nothing, all different, e.g. "kavimo"."""
    made: dict[str, None] = {}
    while len(made) < count:
        pairs = (rng.choice(list("bdfgklmnprtvz")) + rng.choice(list("aiou")) for _ in range(rng.integers(3, 5)))
        made["".join(pairs)] = None
    return list(made)


def zipf(rng: np.random.Generator, words: Sequence[str], count: int) -> np.ndarray:
    """So many of the words: the n-th comes up 1/n times as often as the first."""
    chances = 1 / np.arange(1, len(words) + 1)
    return np.array(words)[rng.choice(len(words), count, p=chances / chances.sum())]


def make_world(rows: int) -> World:
    rng = np.random.default_rng(SEED)
    every = iter(vocabulary(rng, sum(WORDS.values())))
    words = {kind: [next(every) for _ in range(count)] for kind, count in WORDS.items()}
    who = np.where(rng.random(rows) < 0.6, "person", zipf(rng, words["noun"], rows))
    columns = [zipf(rng, words[kind], rows) for kind in ("adjective", "verb", "adverb", "place")]
    captions = [f"a {a} {w} is {v} {d} in the {p}" for w, a, v, d, p in zip(who, *columns, strict=True)]
    motions = [f"{v} {d}" for v, d in zip(*(zipf(rng, words[k], QUERIES) for k in ("verb", "adverb")), strict=True)]

    centres = unit(rng.standard_normal((CENTRES, DIMS), np.float32))
    home, noise = rng.integers(CENTRES, size=rows), rng.standard_normal((rows, DIMS), np.float32) / np.sqrt(DIMS)
    low, high = 0.0, 3.0
    for _ in range(9):  # the noise is as wide as makes the cosine right
        width = (low + high) / 2
        vectors = unit(centres[home] + np.float32(width) * noise)
        nearest = float(nearest_cosines(vectors).mean())
        low, high = (width, high) if nearest > NEAREST else (low, width)
    asked = rng.standard_normal((QUERIES, DIMS), np.float32) / np.sqrt(DIMS)
    questions = unit(centres[rng.integers(CENTRES, size=QUERIES)] + np.float32(width) * asked)
    return World(captions, motions, vectors, questions, nearest)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def nearest_cosines(vectors: np.ndarray) -> np.ndarray:
    """Of some rows (SAMPLE,): the greatest cosine with another row."""
    picked = np.linspace(0, len(vectors) - 1, SAMPLE).astype(int)
    cosines = vectors[picked] @ vectors.T
    cosines[np.arange(SAMPLE), picked] = -1
    return cosines.max(1)


def small_scorers(folder: Path, source: Path) -> None:
    """Scorers with the miniature's words and shape, DIMS / 2 numbers each, random weights."""
    torch.manual_seed(SEED)
    for name, config_class, model_class in (("clip", CLIPConfig, CLIPModel), ("xclip", XCLIPConfig, XCLIPModel)):
        shutil.copytree(source / name, folder / name)
        config = config_class.from_pretrained(source / name)
        config.projection_dim = DIMS // 2
        config.vision_config.mit_hidden_size = DIMS // 2
        model_class(config).save_pretrained(folder / name)


def table(world: World, library: Library, first: int, last: int) -> pa.Table:
    """Rows first..last; lengths and shapes as of footage from the web."""
    rng, n = np.random.default_rng((SEED, first)), last - first
    seconds = rng.gamma(2.0, 3.0, n)
    names = [f"{i:064x}" for i in range(first, last)]
    width, height = SIZES[rng.integers(len(SIZES), size=n)].T
    columns: dict[str, Any] = {
        "id": [f"{name}-0" for name in names], "source": names, "segment": np.zeros(n), "segments": np.ones(n),
        "name": [f"{i}.mp4" for i in range(first, last)], "start": np.zeros(n), "caption": world.captions[first:last],
        "seconds": seconds, "frames": seconds * rng.choice([8, 24, 30], n) // 1, "width": width, "height": height,
        "presence": rng.uniform(0.3, 1, n),
        "embedding": pa.FixedSizeListArray.from_arrays(world.vectors[first:last].ravel(), DIMS),
    }  # fmt: skip
    return pa.table({k: pa.array(v) for k, v in columns.items()}).cast(library.schema)


def timed(ask: Callable[[Any], Any], questions: Sequence[Any]) -> tuple[dict[str, float], list[Any]]:
    """Milliseconds, and the answers."""
    for question in questions[:WARM]:
        ask(question)
    times, answers = [], []
    for question in track(questions, description="asking", transient=True):
        began = time.perf_counter()
        answers.append(ask(question))
        times.append(1e3 * (time.perf_counter() - began))
    return {f"p{p}_ms": round(float(np.percentile(times, p)), 2) for p in (50, 95)}, answers


def measure(rows: int, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)  # as the index's actor does
    world = make_world(rows)
    assert abs(world.nearest - NEAREST) < 0.01, f"nearest other at {world.nearest:.3f}, not {NEAREST}"
    assert abs(np.mean(["person" in c for c in world.captions]) - 0.6) < 0.02
    miniature, large = load_bundle("miniature"), load_bundle("cogvideox-2b")
    assert miniature.library.scorers
    small_scorers(folder / "scorers", miniature.folder / miniature.library.scorers)
    scored = large.library.model_copy(update={"scorers": str(folder / "scorers")})
    bundle: Bundle = large.model_copy(update={"library": scored})
    library, settings = Library(str(folder / "library"), bundle), bundle.library.retrieval
    began = time.perf_counter()
    for first in track(range(0, rows, BATCH), description="writing", transient=True):
        library.write(table(world, library, first, min(rows, first + BATCH)))
    library.index()
    build = time.perf_counter() - began

    asked = [bundle.library.query.format(motion=motion) for motion in world.motions]
    fts, found = timed(lambda q: library.find(q, settings.candidates).drop(attributes(settings)), asked)
    vector, near = timed(lambda q: library.nearest(q, TOP), list(world.questions))
    flat, exact = timed(lambda q: library.nearest(q, TOP, exact=True), list(world.questions[:100]))
    steps, films = timed(library.retrieve, world.motions)

    true = [np.argpartition(-(world.vectors @ q), TOP)[:TOP] for q in world.questions]
    hits = [{int(row["id"][:64], 16) for row in answer.rows} for answer in near]
    recall = np.mean([len(mine & set(best.tolist())) / TOP for mine, best in zip(hits, true, strict=True)])
    same = [
        {int(row["id"][:64], 16) for row in answer.rows} == set(b.tolist())
        for answer, b in zip(exact, true, strict=False)
    ]
    assert np.mean(same) > 0.95, "looking at every row does not find the nearest"  # equals may change places
    return {
        "rows": len(library), "build_s": round(build, 1), "fts": fts,
        "vector": {**vector, "recall_at_20": round(float(recall), 4)}, "flat": {"p95_ms": flat["p95_ms"]},
        "four_steps": steps, "queries": QUERIES, "nearest": round(world.nearest, 3),
        "kept": {
            "fts": round(float(np.mean([len(kept) for kept, _ in found])), 1),
            **{step.name: round(float(np.mean([len(f.steps[n].kept) for f in films])), 1)
               for n, step in enumerate(films[0].steps)},
        },
    }  # fmt: skip


def main(
    rows: Annotated[int, typer.Option(min=10_000, help="of the library")] = 1_000_000,
    folder: Annotated[Path | None, typer.Option(help="where the library is built; removed afterwards")] = None,
) -> None:
    """Builds a library and asks it."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        print(json.dumps(measure(rows, Path(place))))


if __name__ == "__main__":
    typer.run(main)
