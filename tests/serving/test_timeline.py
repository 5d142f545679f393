"""The making of a film as a trace and as a picture."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cluster.journal import Span
from serving.timeline import chrome_trace, draw_timeline, parts_of


def span(key: str, start: float, end: float | None, worker: tuple[str, ...] = (), kind: str = "scene") -> Span:
    outcome = None if end is None else "finished"
    return Span(kind=kind, key=key, label=key, worker=worker, start=start, end=end, outcome=outcome, error=None)


def test_a_scene_of_two_workers_is_on_both_rows_and_what_never_ended_on_none() -> None:
    spans = [span("plan", 10, 12, kind="plan"), span("a", 12, 20, ("w1", "w2")), span("b", 13, None, ("w1",))]
    parts = parts_of([("film", spans)])
    assert [(part.row, part.start, part.seconds) for part in parts] == [
        ("planner", 0, 2), ("w1", 2, 8), ("w2", 2, 8),
    ]  # fmt: skip


def test_a_prior_that_two_films_share_is_shown_once() -> None:
    shared = span("ghost", 0, 5, ("w1",), "prior")
    parts = parts_of([("one", [shared]), ("two", [shared, span("a", 5, 6, ("w1",))])])
    assert [(part.film, part.span.key) for part in parts] == [("one", "ghost"), ("two", "a")]


def test_what_is_decoded_beside_the_next_scene_has_a_row_of_its_own() -> None:
    spans = [span("a", 0, 6, ("w1",)).model_copy(update={"freed": 4.0}), span("b", 4, 9, ("w1",))]
    parts = parts_of([("film", spans)])
    assert [(part.start, part.busy, part.seconds) for part in parts] == [(0, 4, 6), (4, 5, 5)]
    events = [e for e in json.loads(chrome_trace(parts))["traceEvents"] if e["ph"] == "X"]
    assert [(e["name"], e["ts"], e["dur"]) for e in events] == [
        ("scene a", 0, 4e6), ("decoding a", 4e6, 2e6), ("scene b", 4e6, 5e6),
    ]  # fmt: skip
    assert events[1]["tid"] != events[0]["tid"] == events[2]["tid"]


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1e6), st.floats(0, 1e4)), min_size=1, max_size=20))
def test_the_trace_keeps_every_time(times: list[tuple[int, float, float]]) -> None:
    spans = [span(f"s{n}", start, start + length, (f"w{w}",)) for n, (w, start, length) in enumerate(times)]
    events = [e for e in json.loads(chrome_trace(parts_of([("film", spans)])))["traceEvents"] if e["ph"] == "X"]
    zero = min(start for _, start, _ in times)
    for event in events:
        _, start, length = times[int(event["name"].removeprefix("scene s"))]
        assert abs(event["ts"] - (start - zero) * 1e6) <= 1 and abs(event["dur"] - length * 1e6) <= 1
    assert len(events) == len(times)


def test_the_picture_has_a_row_for_each_worker(tmp_path) -> None:
    few, many = ([span(f"s{n}", n, n + 2, (f"w{n}",)) for n in range(count)] for count in (1, 6))
    heights = []
    for n, spans in enumerate((few, many)):
        draw_timeline(tmp_path / f"{n}.png", parts_of([("film", spans)]), "A film")
        picture = Image.open(tmp_path / f"{n}.png").convert("RGB")
        heights.append(picture.height)
        assert sum(colour == (0x48, 0xC9, 0xF2) for colour in picture.get_flattened_data()) > 1000
    assert heights[1] > 1.5 * heights[0]
