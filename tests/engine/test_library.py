"""The motion library with the miniature's own clips and trained scorers: each step, filling, bad files."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cutting import Captioned, Cutter
from engine.errors import InputError
from engine.filling import add_clips, keep, prepare
from engine.library import SCHEMA, Library, join_embeddings, split_embeddings
from engine.library_settings import LibraryOf, RetrievalSettings
from engine.miniature import words
from engine.miniature.clips import LibraryClips, library_clips, recipes, vocabulary
from engine.models import Bundle, load_bundle
from engine.scorers import Embeddings, Scorers, sample
from engine.video import encode_video, read_video

MINIATURE = load_bundle("miniature")
MOTION = "spins around"


def chosen() -> list[int]:
    """40 of the 400 clips: 10 that show the motion, all 12 made to mislead about it or of a wrong shape, 18 others."""
    made = recipes()
    good = [n for n, r in enumerate(made) if (r.shows, r.names, r.flaw) == (MOTION, MOTION, "")][:10]
    bad = [n for n, r in enumerate(made) if r.names == MOTION and (r.shows != MOTION or r.flaw)]
    others = [n for n, r in enumerate(made) if r.names != MOTION and r.shows != MOTION][::18][:18]
    return good + bad + others


@pytest.fixture(scope="session")
def few() -> list[Captioned]:
    clips = library_clips()
    return [clips[n] for n in chosen()]


@pytest.fixture(scope="session")
def library(few, tmp_path_factory) -> Library:
    made = Library(str(tmp_path_factory.mktemp("library")), without_clips())
    assert add_clips(made, few) == (40, 0, ())
    return made


def without_clips(**changes) -> Bundle:
    """The miniature with a library that begins empty."""
    return MINIATURE.model_copy(update={"library": MINIATURE.library.model_copy(update={"clips": None, **changes})})


def test_the_miniatures_clips_cover_its_world() -> None:
    made = recipes()
    assert len(made) == len(library_clips()) == 400
    assert {r.shows for r in made} == set(words.MOTIONS)
    assert sum(r.shows == r.names and not r.flaw for r in made if r.shows in words.LIBRARY_MOTIONS) == 6 * 36


def test_a_clip_is_always_the_same(few) -> None:
    assert LibraryClips()[chosen()[3]] == few[3]
    assert set(few[3].caption.split()) <= set(vocabulary())


def test_words_find_inflections_and_nothing_else(library, few) -> None:
    step = library.retrieve(MOTION).steps[0]
    captions = [c.caption for c in step.kept]
    assert any("is spinning" in caption for caption in captions)
    assert all(any(stem in caption for stem in ("spin", "around")) for caption in captions)
    assert len(captions) == sum("spin" in c.caption or "around" in c.caption for c in few)
    assert [c.bm25 for c in step.kept] == sorted((c.bm25 for c in step.kept), reverse=True)
    assert sum(step.dropped.values()) == 40 - len(captions)


def test_attributes_drop_clips_of_a_wrong_shape(library, few) -> None:
    flawed = {recipes()[n].flaw: clip.caption for n, clip in zip(chosen(), few, strict=True)}
    for flaw, reason in (("short", "shorter than 2 s"), ("tall", "narrower than 0.9 of their height")):
        words_step, step, *_ = library.retrieve(flawed[flaw]).steps
        assert step.dropped[reason] == 1
        assert len(step.kept) == len(words_step.kept) - sum(step.dropped.values())
    settings = RetrievalSettings(min_seconds=0, min_frames=9, min_aspect=0)
    assert library.retrieve(flawed["short"], settings).steps[1].dropped == {"of fewer than 9 frames": 1}


def test_scorers_prefer_clips_that_show_the_motion(library, few) -> None:
    """Ten captions of the library lie about this motion, in words that BM25 ranks high."""
    shown = dict(zip((c.caption for c in few), (recipes()[n].shows for n in chosen()), strict=True))

    def share(candidates) -> float:
        return float(np.mean([shown[c.caption] == MOTION for c in candidates]))

    retrieval = library.retrieve(MOTION)
    assert share(retrieval.steps[1].kept[:10]) <= 0.3  # words alone
    assert share(retrieval.selected[:10]) >= 0.9
    assert share(retrieval.selected) >= 0.7
    assert retrieval.steps[3].dropped["score of 0.2 or less"] >= 5
    scores = [c.score for c in retrieval.selected]
    assert scores == sorted(scores, reverse=True)
    assert all(c.score == pytest.approx((c.clip + c.xclip) / 2, abs=2e-4) for c in retrieval.selected)


def test_threshold_most_and_least(library) -> None:
    numbers = MINIATURE.library.retrieval
    everything = library.retrieve(MOTION, numbers.model_copy(update={"threshold": -1, "most": 400})).steps
    assert everything[3].kept and len(everything[3].kept) == len(everything[2].kept)
    best = tuple(c.id for c in everything[3].kept)
    none_pass = library.retrieve(MOTION, numbers.model_copy(update={"threshold": 1}))
    assert tuple(c.id for c in none_pass.selected) == best[:4]
    assert sum(none_pass.steps[3].dropped.values()) == len(best) - 4
    capped = library.retrieve(MOTION, numbers.model_copy(update={"threshold": -1, "most": 5})).steps[3]
    assert tuple(c.id for c in capped.kept) == best[:5]
    assert capped.dropped == {"beyond the best 5": len(best) - 5}


def test_the_bundles_numbers() -> None:
    assert MINIATURE.library.retrieval == RetrievalSettings(min_frames=24, min_presence=0.25)
    assert load_bundle("cogvideox-2b").library.retrieval == RetrievalSettings()  # the method's


def test_a_motion_without_clips(library) -> None:
    with pytest.raises(InputError, match=r"motion 'juggles': .*dreamrunner library add"):
        library.retrieve("juggles")
    with pytest.raises(InputError, match=r"motion 'spins around': .*none that can be learned from"):
        library.retrieve(MOTION, RetrievalSettings(min_seconds=60))


def test_the_querys_own_words_do_not_count_as_the_motions(few, tmp_path) -> None:
    library = Library(str(tmp_path), without_clips(scorers=None, query="a fox in the forest {motion}"))
    add_clips(library, [few[0]._replace(caption="a fox in the forest")])
    with pytest.raises(InputError, match="motion 'juggles'"):
        library.retrieve("juggles")


def test_without_scorers_words_decide(few, tmp_path) -> None:
    library = Library(str(tmp_path), without_clips(scorers=None))
    add_clips(library, few)
    *_, centred, selected = library.retrieve(MOTION).steps
    assert selected.kept == centred.kept[:20]
    assert selected.kept[0].score is None


def test_the_same_clip_twice_is_one_row(library, few) -> None:
    before = library.fingerprint
    assert add_clips(library, few[:5]) == (0, 5, ())
    assert len(library) == 40
    assert library.fingerprint == before
    assert library.clip(library.search("spin", 1)[0].id)[4:8] == b"ftyp"


def test_what_cannot_be_read_is_skipped_with_the_reason(few, tmp_path) -> None:
    library = Library(str(tmp_path), without_clips())
    still = encode_video(np.zeros((1, 64, 112, 3), np.uint8), 8)
    seen: list[tuple[int, int]] = []
    clips = [
        few[0], Captioned("a fox spins", b"no video at all", "broken.mp4"), few[0], few[1],
        few[2]._replace(caption=" ", name="dumb.mp4"), Captioned("a fox", still, "still.mp4"),
        few[3]._replace(video=few[3].video[:3000], name="cut.mp4"),
    ]  # fmt: skip
    result = add_clips(library, clips, lambda done, total: seen.append((done, total)))
    assert (result.added, result.known) == (2, 1)
    why = dict(result.skipped)
    assert list(why) == ["broken.mp4", "dumb.mp4", "still.mp4", "cut.mp4"]
    assert "Invalid data" in why["broken.mp4"]
    assert "no caption" in why["dumb.mp4"]
    assert "one frame" in why["still.mp4"]
    assert seen[-1] == (7, 7)
    assert len(library) == 2
    assert add_clips(library, few[2:4]).added == 2
    assert len(library.search("spin around", 40)) == sum("spin" in c.caption or "around" in c.caption for c in few[:4])


def test_a_file_is_known_when_all_its_segments_are_there(few, tmp_path) -> None:
    """A run that ended between two segments of a file cuts it again, and writes what is missing."""
    library = Library(str(tmp_path), without_clips())
    (cut,) = Cutter(library.bundle).cut(few[0])
    halves = [
        cut._replace(row={**cut.row, "id": f"{cut.row['source']}-{n}", "segment": n, "segments": 2}) for n in (0, 1)
    ]
    assert library.write(keep(library, halves[:1])) == 1
    library.index()
    assert library.known([few[0].source, few[1].source]) == set()
    assert library.write(keep(library, halves)) == 1
    assert library.known([few[0].source, few[1].source]) == {few[0].source}
    assert library.stats().clips == 1
    assert library.stats().segments == 2


def test_adding_that_was_killed_goes_on(few, tmp_path) -> None:
    """The process dies at the 36th clip: what was written stays, can be searched, and is not added again."""
    library = Library(str(tmp_path), without_clips())

    def die(done: int, total: int) -> None:
        if done == 35:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add_clips(library, few, die)
    assert len(library) == 32
    again = Library(str(tmp_path), without_clips())
    prepare(again)
    assert again.search("spins around", 3)
    result = add_clips(again, few)
    assert (result.added, result.known) == (8, 32)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_bytes_are_cut_or_refused(data) -> None:
    """A clip with some of its bytes changed, moved or cut off: never anything else than InputError."""
    video = bytearray(library_clips()[7].video)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(video) - 1))
        video[at : at + data.draw(st.integers(1, 40))] = data.draw(st.binary(max_size=40))
    cutter = Cutter(MINIATURE)
    with contextlib.suppress(InputError):
        for cut in cutter.cut(Captioned("a fox", bytes(video))):
            assert cut.row["frames"] >= 1
            assert cut.pixels.shape[0] == 8


def test_the_vector_index_ranks_by_the_score(few, tmp_path, monkeypatch) -> None:
    """Embeddings around 30 centres: what the index finds is what looking at every row finds."""
    monkeypatch.setattr("engine.library.VECTOR_INDEX_FROM", 1000)
    monkeypatch.setattr("engine.library.ROWS_A_PARTITION", 100)
    library = Library(str(tmp_path), without_clips())
    rng = np.random.default_rng(0)
    centres, home = rng.standard_normal((30, 128)), rng.integers(30, size=2000)
    both = np.split(centres[home] + 0.7 * rng.standard_normal((2000, 128)), 2, 1)
    halves = Embeddings(*((x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in both))
    joined = join_embeddings(halves)
    for mine, back in zip(halves, split_embeddings(joined, 64), strict=True):
        np.testing.assert_allclose(mine, back, atol=1e-6)
    (cut,) = Cutter(library.bundle).cut(few[0])
    rows = [{**cut.row, "id": f"{n:064x}-0", "source": f"{n:064x}"} for n in range(2000)]
    columns = {name: [row[name] for row in rows] for name, _ in SCHEMA}
    assert library.write(pa.table({**columns, "embedding": list(joined)}, schema=library.schema)) == 2000
    library.index()
    assert {tuple(index.columns) for index in library.table.list_indices()} == {
        ("caption",), ("id",), ("source",), ("embedding",),
    }  # fmt: skip
    asked = Embeddings(halves.clip[7:8], halves.xclip[7:8])
    near, exact = (library.nearest(join_embeddings(asked)[0], 20, exact) for exact in (False, True))
    assert near.rows[0]["id"] == exact.rows[0]["id"] == rows[7]["id"]
    assert len({r["id"] for r in near.rows} & {r["id"] for r in exact.rows}) >= 19
    scores = [c.score for c in exact.scored(asked)]
    assert scores == pytest.approx([1 - r["_distance"] for r in exact.rows], abs=1e-3)


def test_search_finds_what_words_do_not(library) -> None:
    assert {hit.bm25 for hit in library.search("juggles", 5)} == {None}
    hits = library.search("spins around", 10)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({hit.id for hit in hits}) == 10


def test_other_containers_become_mp4(few, tmp_path) -> None:
    import av

    frames = read_video(few[0].video)[0][:, :63]  # H.264 takes no odd side
    path = tmp_path / "clip.gif"
    with av.open(str(path), "w") as gif:
        stream = gif.add_stream("gif", rate=8)
        stream.width, stream.height, stream.pix_fmt = 112, 63, "rgb8"
        for frame in frames:
            gif.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        gif.mux(stream.encode())
    library = Library(str(tmp_path / "library"), without_clips())
    assert add_clips(library, [Captioned("a spinning fox", path.read_bytes())]).added == 1
    video, rate = read_video(library.clip(library.search("spins")[0].id))
    assert video.shape == (24, 62, 112, 3)
    assert rate == 8


CALLS = []


def a_few_clips() -> Iterator[Captioned]:
    """First clips of a bundle; the first time they are asked for, the process dies halfway, as it were."""
    clips = library_clips()
    CALLS.append("")
    yield from clips[:3]
    if len(CALLS) == 1:
        raise KeyboardInterrupt
    yield from clips[3:6]


def test_an_empty_library_is_filled_whole_or_not_at_all(tmp_path) -> None:
    CALLS.clear()
    bundle = without_clips(clips=f"{__name__}:a_few_clips")
    with pytest.raises(KeyboardInterrupt):
        prepare(Library(str(tmp_path), bundle))
    assert len(Library(str(tmp_path), without_clips())) == 0
    seen: list[tuple[int, int]] = []
    library = Library(str(tmp_path), bundle)
    prepare(library, lambda done, total: seen.append((done, total)))
    assert len(library) == 6
    assert len(seen) == 6
    filled = library.fingerprint
    again = Library(str(tmp_path), bundle)
    prepare(again)
    assert len(CALLS) == 2
    assert again.fingerprint == filled


def test_other_scorers_embed_all_clips_again(library, tmp_path) -> None:
    shutil.copytree(library.url, tmp_path / "library")
    shutil.copytree(MINIATURE.folder / "scorers", tmp_path / "scorers")
    for part in ("clip", "xclip"):
        colours = tmp_path / "scorers" / part / "preprocessor_config.json"
        colours.write_text(colours.read_text().replace("0.4", "0.3"))
    changed = Library(str(tmp_path / "library"), without_clips(scorers=str(tmp_path / "scorers")))
    before = [c.score for c in changed.search("spins around", 5)]
    prepare(changed)
    after = [c.score for c in changed.search("spins around", 5)]
    assert before == [c.score for c in library.search("spins around", 5)]
    assert after != before
    assert len(changed) == 40
    assert changed.fingerprint != library.fingerprint


def test_scorers_know_their_own_sizes() -> None:
    scorers = Scorers(MINIATURE.folder / "scorers")
    clips = [np.full((t, h, w, 3), t, np.uint8) for t, h, w in ((24, 64, 112), (5, 90, 40))]
    embedded, asked = scorers.embed_clips(clips), scorers.embed_texts(["it spins around", "a never-heard word"])
    for x in (*embedded, *asked):
        assert x.shape == (2, 64)
        np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(scorers.embed_clips(clips[1:]).xclip, embedded.xclip[1:], atol=1e-5)
    assert sample(np.arange(24)).tolist() == [1, 4, 7, 10, 13, 16, 19, 22]
    assert sample(np.arange(3)).tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    with pytest.raises(InputError, match=r"scorers: .*clip is no model folder"):
        Scorers(MINIATURE.folder / "video")


def test_unwritable_place() -> None:
    with pytest.raises(InputError, match="library /proc/nowhere: cannot be opened"):
        Library("/proc/nowhere", MINIATURE.model_copy(update={"library": LibraryOf()}))
