"""The plan of a film: what the planner writes, people edit, and everything after it reads.

A plan is a list of scenes. A scene has a background and regions: an entity that does one motion, described by one
caption, in one box for each keyframe where it is seen (paper, section 3.1). In a file:

    scenes:
      - id: meeting
        background: in the forest
        narration: The fox runs to meet the robot.
        regions:
          - entity: fox
            motion: walks right
            caption: a fox walks right in the forest
            boxes:                       # keyframe, or first-last: [left, top, right, bottom] in 0..1 of the picture
              1-3: [0.0, 0.3, 0.4, 1.0]
              4-6: [0.3, 0.3, 0.7, 1.0]
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_serializer, field_validator

from engine.errors import InputError

KEYFRAMES = 6  # per scene; boxes hold for a keyframe, nothing is interpolated
MAX_SCENES = 200
NONE = "none"  # the authors' word for no entity or no motion

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=400)]
SceneId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]


class Box(NamedTuple):
    """Edges as shares of the picture's width (left, right) and height (top, bottom), 0..1."""

    left: float
    top: float
    right: float
    bottom: float


def check_box(box: Box) -> str | None:
    """Why the box is no box, or None."""
    for name, value in zip(Box._fields, box, strict=True):
        if not 0 <= value <= 1:
            return f"{name} is {value:g}, but edges lie in 0..1 of the picture"
    if box.left >= box.right:
        return f"left ({box.left:g}) must be less than right ({box.right:g})"
    if box.top >= box.bottom:
        return f"top ({box.top:g}) must be less than bottom ({box.bottom:g})"
    return None


class Region(BaseModel):
    """One entity doing one motion. `boxes` maps keyframes 1..6 to boxes; it is absent from the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    entity: Text = Field(description='who or what, or "none"')
    motion: Text = Field(default=NONE, description='what it does, present tense, or "none"')
    caption: Text = Field(description="entity, motion and background in one phrase: the words this region listens to")
    boxes: dict[int, Box]

    @field_validator("boxes", mode="before")
    @classmethod
    def _expand(cls, value: Any) -> Any:
        """`1-3: [...]` stands for keyframes 1, 2 and 3; a bare [...] for all of them."""
        if isinstance(value, list | tuple):
            value = {f"1-{KEYFRAMES}": value}
        if not isinstance(value, dict) or not value:
            raise ValueError("give a box [left, top, right, bottom], or one for each keyframe (1-3: [...])")
        boxes: dict[int, Any] = {}
        for key, box in value.items():
            match = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", str(key))
            first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
            if not 1 <= first <= last <= KEYFRAMES:
                raise ValueError(f"{key!r} is no keyframe: write one of 1..{KEYFRAMES}, or first-last")
            if not isinstance(box, list | tuple) or len(box) != 4 or not all(isinstance(e, int | float) for e in box):
                raise ValueError(f"keyframe {key}: a box is four numbers [left, top, right, bottom], not {box!r}")
            if wrong := check_box(Box(*map(float, box))):
                raise ValueError(f"keyframe {key}: {wrong}")
            for keyframe in range(first, last + 1):
                if keyframe in boxes:
                    raise ValueError(f"keyframe {keyframe} has two boxes")
                boxes[keyframe] = Box(*map(float, box))
        return dict(sorted(boxes.items()))

    @field_serializer("boxes")
    def _compress(self, boxes: dict[int, Box]) -> dict[str | int, list[float]]:
        runs: list[list[Any]] = []
        for keyframe, box in boxes.items():
            if runs and runs[-1][1] == keyframe - 1 and runs[-1][2] == box:
                runs[-1][1] = keyframe
            else:
                runs.append([keyframe, keyframe, box])
        return {(f"{a}-{b}" if a != b else a): list(box) for a, b, box in runs}


class Scene(BaseModel):
    """One shot of the film, six keyframes long. `id` is its name for ever: noise and results hang on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: SceneId
    background: Text = Field(description="the place, free of characters: the words all other tokens listen to")
    narration: Annotated[str, StringConstraints(strip_whitespace=True, max_length=2000)] = ""
    regions: tuple[Region, ...] = ()

    def keyframes(self) -> Iterator[list[tuple[Region, Box]]]:
        """For each of the six keyframes the regions seen in it, with their boxes."""
        for keyframe in range(1, KEYFRAMES + 1):
            yield [(r, r.boxes[keyframe]) for r in self.regions if keyframe in r.boxes]


class Character(BaseModel):
    """Someone the video model does not know. `phrase` stands for it in captions and is what its LoRA learns; `images`
    are one to five pictures: files beside a plan.yaml, sha256 of their bytes everywhere else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phrase: Text
    images: Annotated[tuple[str, ...], Field(min_length=1, max_length=5)]


class Plan(BaseModel):
    """A whole film."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: Annotated[str, StringConstraints(strip_whitespace=True, max_length=200)] = ""
    characters: dict[str, Character] = {}  # by the entity's name
    scenes: Annotated[tuple[Scene, ...], Field(min_length=1, max_length=MAX_SCENES)]

    @field_validator("scenes")
    @classmethod
    def _distinct_ids(cls, scenes: tuple[Scene, ...]) -> tuple[Scene, ...]:
        seen: set[str] = set()
        for scene in scenes:
            if scene.id in seen:
                raise ValueError(f"two scenes have the id {scene.id!r}; ids must differ")
            seen.add(scene.id)
        return scenes


class _FlowBoxes(yaml.SafeDumper):
    """Writes lists of numbers on one line."""


_FlowBoxes.add_representer(
    list, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=bool(v) and isinstance(v[0], float))
)

HEADER = """\
# A film's plan. Edit it and render it again: scenes that did not change are not made again.
# A scene lasts {keyframes} keyframes. Each region is one entity doing one motion; its boxes say where it is, as
# [left, top, right, bottom] in 0..1 of the picture, for a keyframe or a run of keyframes (1-3).
# Captions are what the video model reads: entity, motion and place in one phrase.
"""


def dump_plan(plan: Plan) -> str:
    """The plan as commented YAML; `load_plan` reads it back to an equal plan."""
    data = plan.model_dump(mode="json")
    if not plan.characters:
        del data["characters"]
    body = yaml.dump(data, Dumper=_FlowBoxes, sort_keys=False, allow_unicode=True, width=120)
    return HEADER.format(keyframes=KEYFRAMES) + re.sub(r"(?<!scenes:)\n- id:", "\n\n- id:", body)


def load_plan(file: str | Path) -> Plan:
    """Reads a plan.yaml. Raises InputError with file, line, field and what to do."""
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the plan {file}: {getattr(error, 'strerror', None) or error}") from None
    return parse_plan(text, str(file))


def parse_plan(text: str, name: str = "plan") -> Plan:
    """A plan from YAML text; `name` stands in error messages."""
    try:
        loader = yaml.CSafeLoader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}:" if mark else ""
        raise InputError(f"{name}:{where} not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(data, dict) or not data.get("scenes"):
        raise InputError(f"{name}: the plan is empty; it needs `scenes`, a list of at least one scene")
    try:
        return Plan.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        message = re.sub(r"^Value error, ", "", first["msg"])
        line = _line(node, first["loc"])
        raise InputError(f"{name}: line {line}: {field}: {message}") from None


def _line(node: yaml.Node | None, path: tuple[int | str, ...]) -> int:
    """The line, from 1, of the value at `path`, or of the deepest part of it that is there."""
    line = node.start_mark.line + 1 if node else 1
    for part in path:
        step = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    step, line = value, key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            step = node.value[part]
            line = step.start_mark.line + 1
        if step is None:
            break
        node = step
    return line
