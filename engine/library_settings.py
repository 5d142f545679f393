"""What a bundle says about its motion library: who judges clips, who finds subjects in footage, the numbers of the
four steps. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]


class RetrievalSettings(BaseModel):
    """The numbers of the four steps; the defaults are the method's (section 2), for real footage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    candidates: Annotated[int, Field(ge=1)] = 400  # step 1: kept of BM25's ranking
    min_seconds: Annotated[float, Field(ge=0)] = 2.0  # step 2
    min_frames: Annotated[int, Field(ge=1)] = 40
    min_aspect: Annotated[float, Field(ge=0)] = 0.9  # width / height
    min_presence: Share = 0.5  # step 3: in what share of a segment its subject was seen
    threshold: Annotated[float, Field(ge=-1, le=1)] = 0.2  # step 4: of the mean of both scorers' cosines
    scored: bool = True  # step 4 ranks; otherwise the words' order stands (the paper's ablation)
    most: Annotated[int, Field(ge=1)] = 20
    least: Annotated[int, Field(ge=1)] = 4  # the best so many are taken even below the threshold


class YolosDetector(BaseModel):
    """A YOLOS model in transformers' format: a folder beside bundle.yaml, an absolute one, or a name on the hub."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["yolos"]
    model: str
    labels: tuple[str, ...] = ("person",)  # of its config's id2label
    threshold: Share = 0.7
    longest_side: Annotated[int, Field(ge=32)] = 512  # pixels that it sees of a frame
    per_second: Annotated[float, Field(gt=0)] = 4.0  # frames that it looks at


class BackgroundDetector(BaseModel):
    """What differs from the clip's still background is a subject: for a camera that does not move."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["background"]
    difference: Annotated[int, Field(ge=1, le=255)] = 24  # grey levels from the median over time
    smallest: Share = 0.002  # of the picture's area
    longest_side: Annotated[int, Field(ge=32)] = 160
    per_second: Annotated[float, Field(gt=0)] = 8.0


class SegmentSettings(BaseModel):
    """How footage is cut into segments centred on one subject (method: step 3; its numbers are ours)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    detector: Annotated[YolosDetector | BackgroundDetector, Field(discriminator="kind")]
    min_overlap: Share = 0.3  # intersection over union by which a track goes on from look to look
    max_gap: Annotated[float, Field(ge=0)] = 0.75  # seconds that a subject may be out of sight
    min_seconds: Annotated[float, Field(ge=0)] = 1.0  # a subject seen for less is none
    widen_to: Annotated[float, Field(gt=0)] = 2.0  # seconds that a segment gets where the footage has them
    max_seconds: Annotated[float, Field(gt=0)] = 10.0  # longer tracks become several segments
    # The picture is cut to the subject's whole way and so much of its size around; None: the picture stays whole.
    margin: Annotated[float, Field(ge=0)] | None = None
    smallest_crop: Share = 0.5  # of the picture's width and height
    whole: bool = False  # a clip in which nobody is found stays as it is; otherwise it is left out


class LibraryOf(BaseModel):
    """Where motions are looked up. `scorers`: a folder beside bundle.yaml with `clip` and `xclip` in transformers'
    folder format, or None to rank by words alone. `clips`: `module:function` that yields the first captioned clips of
    a library that is empty, or None for one that users fill. `segments`: None leaves clips whole."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scorers: str | None = None
    clips: str | None = None
    query: str = "a person is {motion}"  # BM25's and the scorers' question (paper, section 3.2)
    segments: SegmentSettings | None = None
    retrieval: RetrievalSettings = RetrievalSettings()
