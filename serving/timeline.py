"""A film's making as a picture and as a Chrome trace: who worked on what, from when to when.

One row for each worker, and one for the planner and the index. Colours are kinds of job; what failed is hatched; a thin
tail is a scene that is decoded while its worker has the next one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.journal import Span

COLOURS = {"plan": "#c194ff", "clips": "#ffd447", "prior": "#ff7a5c", "scene": "#48c9f2"}
HOSTS = {"plan": "planner", "clips": "index"}  # of jobs that need no worker
LABELLED = 0.06  # of the picture's width: in narrower spans there is no room for words
SECONDS_WIDE, ROW_HIGH = 12.0, 0.42  # inches


@dataclass(frozen=True)
class Part:
    """An attempt on one row; `film` says whose, when several films are shown. Seconds from the first start."""

    row: str
    film: str
    span: Span
    start: float
    seconds: float
    busy: float  # seconds of these in which the row could have nothing else


def parts_of(films: Iterable[tuple[str, Sequence[Span]]]) -> list[Part]:
    """An attempt of several workers is a part on each of their rows; one that never ended is left out. A job that
    several films share is shown once, as the first one's."""
    seen: dict[tuple[str, float], tuple[str, Span]] = {}
    for film, spans in films:
        for span in spans:
            if span.end is not None:
                seen.setdefault((span.key, span.start), (film, span))
    zero = min((span.start for _, span in seen.values()), default=0.0)
    return [
        Part(row, film, span, span.start - zero, end - span.start, min(span.freed or end, end) - span.start)
        for film, span in sorted(seen.values(), key=lambda item: item[1].start)
        for end in (span.end or span.start,)
        for row in (span.worker or (HOSTS.get(span.kind, span.kind),))
    ]


def _rows(parts: Sequence[Part]) -> dict[str, str]:
    """Row -> what it is called: hosts first, then workers in the order in which they began."""
    names = dict.fromkeys(part.row for part in parts)
    hosts = [name for name in names if name in HOSTS.values()]
    workers = [name for name in names if name not in HOSTS.values()]
    return {**{name: name for name in hosts}, **{name: f"worker {n}" for n, name in enumerate(workers, 1)}}


def chrome_trace(parts: Sequence[Part]) -> str:
    """JSON for chrome://tracing, ui.perfetto.dev and the like."""
    rows = _rows(parts)
    numbers = {row: n for n, row in enumerate(rows)}
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 0, "tid": n + extra, "name": "thread_name", "args": {"name": f"{rows[row]}{what} ({row})"}}
        for row, n in numbers.items()
        for what, extra in (("", 0), (", decoding", len(rows)))
    ]
    for part in parts:
        args = {"film": part.film, "job": part.span.key, "outcome": part.span.outcome, "error": part.span.error}
        events.append({
            "ph": "X", "pid": 0, "tid": numbers[part.row], "cat": part.span.kind,
            "name": f"{part.span.kind} {part.span.label}",
            "ts": round(part.start * 1e6), "dur": round(part.busy * 1e6),
            "args": {key: value for key, value in args.items() if value},
        })  # fmt: skip
        if part.seconds > part.busy:  # a row of its own, since what is on one row must not overlap
            begin = part.start + part.busy
            events.append({
                "ph": "X", "pid": 0, "tid": len(rows) + numbers[part.row], "cat": "decoding",
                "name": f"decoding {part.span.label}", "ts": round(begin * 1e6),
                "dur": round((part.start + part.seconds - begin) * 1e6),
            })  # fmt: skip
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})


def draw_timeline(path: Path, parts: Sequence[Part], title: str) -> None:
    """A PNG (or what the path's ending says) with a row for each worker."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    rows = _rows(parts)
    end = max((part.start + part.seconds for part in parts), default=1.0)
    figure, axes = plt.subplots(figsize=(SECONDS_WIDE, 1.3 + ROW_HIGH * len(rows)), layout="constrained")
    heights = {row: len(rows) - n for n, row in enumerate(rows)}
    for part in parts:
        failed = part.span.outcome == "failed"
        colour = COLOURS.get(part.span.kind, "#999999")
        axes.barh(
            heights[part.row], part.busy, left=part.start, height=0.8, color=colour, edgecolor="white", linewidth=0.6,
            hatch="///" if failed else None, alpha=0.55 if failed else 1.0,
        )  # fmt: skip
        if part.seconds > part.busy:  # decoding beside the next scene
            axes.barh(
                heights[part.row] - 0.45,
                part.seconds - part.busy,
                left=part.start + part.busy,
                height=0.1,
                color=colour,
            )
        if part.busy > LABELLED * end:
            words = part.span.label[: int(part.busy / end * 110)]
            axes.text(part.start + part.busy / 2, heights[part.row], words, ha="center", va="center", fontsize=7)
    axes.set_yticks(list(heights.values()), list(rows.values()))
    axes.set_xlim(0, end)
    axes.set_xlabel("seconds")
    axes.set_title(title, loc="left", fontsize=11)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    kinds = dict.fromkeys(part.span.kind for part in parts)
    handles = [Patch(color=COLOURS.get(kind, "#999999"), label=kind) for kind in kinds]
    if any(part.span.outcome == "failed" for part in parts):
        handles.append(Patch(facecolor="white", edgecolor="#555555", hatch="///", label="failed"))
    axes.legend(
        handles=handles, loc="upper right", bbox_to_anchor=(1, 1.0 + 0.9 / (1 + len(rows))), ncols=6, fontsize=8
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)
