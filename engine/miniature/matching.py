"""Finds the cast's sprites in frames by matching, with no trained model.

A frame is explained as a painted stage with sprites laid over it. The *gain* of a sprite at a pose (centre, size,
angle, facing) is by how much it lowers the squared colour error of that explanation, so one number compares all
characters, places and poses. `find` lays down the best sprite, hides what it explains, and looks again.

Each look goes from coarse to fine: a bank of templates is correlated with the frame at a quarter of its resolution, and
the best poses are then fitted at full resolution by damped Gauss-Newton steps. Frames, stages and sprites are all
blurred by one pixel first, so a film that came through a VAE matches as a sharp one does.

Shapes: T frames, N poses, H x W pixels; colours in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from engine.errors import InputError
from engine.miniature.stages import HEIGHT, WIDTH, paint
from engine.miniature.words import CHARACTERS, STAGES
from engine.miniature.world import SPRITES

CAST = tuple(CHARACTERS)
BLUR = 1.0  # pixels, standard deviation: of everything that is compared
CELL = 4  # pixels of the coarse grid
TEXTURE = 64  # texels across a sprite's texture, which is SPAN times as wide as the sprite
SPAN = 1.3
SIZES = (12.5, 15.5, 19.0, 23.0, 27.5, 33.0, 40.0)  # of the templates, pixels
SIZE_RANGE = (np.log(10), np.log(46))  # of a fitted sprite's size
UPRIGHT = (0, -20, 20)  # degrees
TURNED = tuple(range(45, 331, 30))
TURNED_SIZES = (3, 4, 5)  # of SIZES: an actor that grows or shrinks does not turn
WINDOW = 52  # pixels of the square in which a pose is fitted: the largest sprite, a little turned
CANDIDATES = 16  # poses fitted per frame and look
FINALISTS = 4  # of them that are fitted at full resolution
LOOKS = 6  # sprites laid down per frame, at most
MIN_GAIN = 3.0  # squared colour error that a sprite must explain, summed over pixels and channels
MIN_SCORE = 0.5
MIN_SCORE_OF_CAST = 0.35  # of a character that is known to be in the scene
MIN_VISIBLE = 0.3
SAMPLED = 8  # frames of a scene from which its cast is decided
SMALL = 17.0  # pixels; what is smaller, and nowhere larger, may be a speck of anything
MIN_EVIDENCE = 0.05  # how much a character's score must exceed MIN_SCORE, on average over those frames
FAINT = 0.005  # variance of colour, summed over channels
EXPLAINED = 0.06  # squared colour error of a pixel, summed over its channels, below which its sprite explains it


@dataclass(frozen=True)
class Detection:
    """A character found in a frame. Centre and size (its longer side) in pixels, angle in degrees counter-clockwise,
    `score` its likeness to the sprite (1 = the same picture, see `_likeness`), `visible` the share of it that nobody
    hides, `box` left, top, right, bottom of its pixels in 0..1 of the frame."""

    x: float
    y: float
    size: float
    angle: float
    right: bool
    score: float
    visible: float
    box: tuple[float, float, float, float]
    mask: np.ndarray  # bool (HEIGHT, WIDTH): its pixels, hidden ones included


@dataclass(frozen=True)
class Poses:
    """N sprites: frame, character (of CAST), size of the texture (of SIZES), facing right, (N,) each, and `pose`
    (N, 4): x, y in pixels, log of the size in pixels, angle in radians."""

    frame: Tensor
    character: Tensor
    size: Tensor
    right: Tensor
    pose: Tensor

    def __getitem__(self, index: Tensor | slice) -> Poses:
        return Poses(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def cat(parts: Sequence[Poses]) -> Poses:
        return Poses(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Poses)))


def gaussian(images: Tensor, sigma: float) -> Tensor:
    """(N, C, H, W) blurred by `sigma` pixels, edges repeated."""
    radius = int(3 * sigma + 0.5)
    x = torch.arange(-radius, radius + 1, dtype=images.dtype)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, -1)
    images = F.conv2d(F.pad(images, (radius, radius, 0, 0), mode="replicate"), kernel[:, :, None], groups=len(kernel))
    return F.conv2d(F.pad(images, (0, 0, radius, radius), mode="replicate"), kernel[..., None], groups=len(kernel))


def to_tensor(frames: np.ndarray) -> Tensor:
    """uint8 (T, H, W, 3) as float32 (T, 3, H, W) in 0..1, blurred as everything here is."""
    return gaussian(torch.from_numpy(frames.astype(np.float32) / 255).permute(0, 3, 1, 2), BLUR)


@cache
def _stage(name: str) -> Tensor:
    """(1, 3, H, W)"""
    return to_tensor(paint(name)[None])


@cache
def _textures() -> Tensor:
    """Every character for every size, (cast, sizes, 4, TEXTURE, TEXTURE), premultiplied RGBA, blurred as a frame is in
    which the sprite has that size."""
    textures = []
    for name in CAST:
        image = Image.open(SPRITES / f"{name}.png").convert("RGBA")
        pad = round(image.width * (SPAN - 1) / 2)
        square = Image.new("RGBA", (image.width + 2 * pad,) * 2)
        square.paste(image, (pad, pad))
        full = torch.from_numpy(np.asarray(square.convert("RGBa"), np.float32) / 255).permute(2, 0, 1)[None]
        for size in SIZES:
            blurred = gaussian(full, BLUR * image.width / size)
            textures.append(F.interpolate(blurred, (TEXTURE, TEXTURE), mode="bilinear", antialias=True)[0])
    return torch.stack(textures).unflatten(0, (len(CAST), len(SIZES)))


def render(poses: Poses, height: int = HEIGHT, width: int = WIDTH, stride: int = 1) -> Tensor:
    """Each sprite alone on a transparent picture, (N, 4, height, width) premultiplied RGBA, every `stride`-th pixel."""
    x, y, log_size, angle = poses.pose.unbind(1)
    zoom = 2 / (SPAN * log_size.exp())  # pixels -> grid_sample's -1..1
    c, s = (angle.cos() * zoom)[:, None, None], (angle.sin() * zoom)[:, None, None]
    dx = (torch.arange(0, width, stride) + 0.5 - x[:, None])[:, None, :]
    dy = (torch.arange(0, height, stride) + 0.5 - y[:, None])[:, :, None]
    mirror = 1 - 2 * poses.right.float()[:, None, None]
    grid = torch.stack([(c * dx - s * dy) * mirror, s * dx + c * dy], -1)
    return F.grid_sample(_textures()[poses.character, poses.size], grid, align_corners=False)


@dataclass(frozen=True)
class _Bank:
    """Coarse templates of one size, upright or turned: `weights` (side * side * 9, N) against the coarse channels."""

    turned: bool
    side: int
    weights: Tensor
    poses: Poses


@cache
def _banks() -> tuple[_Bank, ...]:
    banks = []
    for turned, index in [*((False, i) for i in range(len(SIZES))), *((True, i) for i in TURNED_SIZES)]:
        size = SIZES[index]
        side = int(np.ceil(size * 1.1 / CELL)) | 1  # odd, so that sprites sit in the middle of a cell
        rows = [(c, r, a) for c in range(len(CAST)) for r in (0, 1) for a in (TURNED if turned else UPRIGHT)]
        character, right, angle = torch.tensor(rows).T
        middle = torch.full(angle.shape, side * CELL / 2)
        pose = torch.stack([middle, middle, torch.full_like(middle, np.log(size)), torch.deg2rad(angle.float())], 1)
        poses = Poses(torch.zeros_like(character), character, torch.full_like(character, index), right.bool(), pose)
        image = F.avg_pool2d(render(poses, side * CELL, side * CELL), CELL)
        color, alpha = image[:, :3], image[:, 3:]
        # in the order of the channels in `_propose`
        terms = [2 * color, -2 * alpha, -color.square().sum(1, keepdim=True), 2 * color * alpha, -alpha.square()]
        banks.append(_Bank(turned, side, torch.cat(terms, 1).permute(2, 3, 1, 0).flatten(0, 2) * CELL**2, poses))
    return tuple(banks)


def _propose(frames: Tensor, model: Tensor, weight: Tensor, cast: Tensor) -> Poses:
    """The most promising poses of each frame by the coarse bank: for each character of `cast` (indices in CAST), facing
    left and facing right, its best upright and its best turned one, and of these the CANDIDATES with the highest gain.

    `frames`, `model` (T, 3, H, W): what is seen and its explanation so far; `weight` (T, 1, H, W).
    """
    f, m, w = (F.avg_pool2d(v, CELL) for v in (frames, model, weight))
    r = f - m
    # gain = sum w r^2 - w (r - s)^2, where the sprite over the model adds s = color - alpha m
    channels = torch.cat([w * r, (w * r * m).sum(1, keepdim=True), w, w * m, (w * m**2).sum(1, keepdim=True)], 1)
    margin, columns = max(bank.side for bank in _banks()) // 2, channels.shape[3]
    padded = F.pad(channels, (margin,) * 4).permute(0, 2, 3, 1).contiguous()  # (T, rows, columns, 9)
    busy = F.avg_pool2d((w * r**2).sum(1, keepdim=True), 3, 1, 1).flatten(1) > 0.004  # (T, cells)
    at = busy.flatten().nonzero()[:, 0]  # P places
    frame, row, column = at // busy.shape[1], at % busy.shape[1] // columns, at % columns
    actor = (cast[:, None] * 2 + torch.arange(2)).flatten()  # a character and the way it faces
    gains = torch.full((2, len(at), len(actor)), -torch.inf)
    template = torch.zeros(2, len(at), len(actor), dtype=torch.long)
    start = 0
    for bank in _banks():
        reach = torch.arange(bank.side) - bank.side // 2 + margin
        patches = padded[frame[:, None, None], (row[:, None] + reach)[:, :, None], (column[:, None] + reach)[:, None]]
        each = len(bank.poses.frame) // (2 * len(CAST))
        chosen = (actor[:, None] * each + torch.arange(each)).flatten()
        gain, best = (patches.flatten(1) @ bank.weights[:, chosen]).unflatten(1, (len(actor), each)).max(2)
        slot = int(bank.turned)
        template[slot] = torch.where(gain > gains[slot], best + actor * each + start, template[slot])
        gains[slot] = torch.maximum(gain, gains[slot])
        start += len(bank.poses.frame)
    gains, template = gains.transpose(0, 1).flatten(1), template.transpose(0, 1).flatten(1)  # (P, 4 * cast)
    templates = Poses.cat([bank.poses for bank in _banks()])
    found = []
    for t, mine in enumerate(torch.arange(len(at)).split(busy.sum(1).tolist())):
        if not len(mine):
            continue
        places, gain, index = at[mine], gains[mine], template[mine]
        gain, best = gain.max(0)
        top, entry = gain.topk(min(CANDIDATES, len(gain)))
        entry = entry[top > max(MIN_GAIN / 2, float(top[0]) / 3)]
        place = places[best[entry]] % busy.shape[1]
        poses = templates[index[best[entry], entry]]
        poses.frame.fill_(t)
        poses.pose[:, 0] = (place % columns + 0.5) * CELL
        poses.pose[:, 1] = (place // columns + 0.5) * CELL
        found.append(poses)
    return Poses.cat(found) if found else templates[:0]


def _windows(maps: Tensor, frame: Tensor, corner: Tensor, stride: int) -> Tensor:
    """Every `stride`-th pixel of the squares of `maps` (T, C, H, W) at `corner` (N, 2: left, top) of `frame` (N,),
    (N, C, WINDOW / stride, WINDOW / stride); zero outside the picture."""
    padded = F.pad(maps, (WINDOW,) * 4)
    rows, columns = (corner[:, i, None] + WINDOW + torch.arange(0, WINDOW, stride) for i in (1, 0))
    return padded[frame[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@dataclass(frozen=True)
class _Fit:
    """Fitted poses with their gain, score (see Detection) and visible share, (N,) each."""

    poses: Poses
    gain: Tensor
    score: Tensor
    visible: Tensor

    def __getitem__(self, index: Tensor) -> _Fit:
        return _Fit(self.poses[index], self.gain[index], self.score[index], self.visible[index])


def _fit(frames: Tensor, model: Tensor, weight: Tensor, poses: Poses, steps: int, stride: int) -> _Fit:
    """Fits poses to the picture by damped Gauss-Newton steps on every `stride`-th pixel."""
    corner = (poses.pose[:, :2].round() - WINDOW // 2).long()
    corner = torch.minimum(corner.clamp(min=-WINDOW), torch.tensor([WIDTH, HEIGHT]))
    seen, under, free = _windows(torch.cat([frames, model, weight], 1), poses.frame, corner, stride).split((3, 3, 1), 1)
    offset = F.pad(corner.float(), (0, 2))
    root = free.sqrt()
    small = torch.tensor([0.25, 0.25, 0.02, 0.03])
    limit = torch.tensor([2.0, 2.0, 0.15, 0.3])

    def draw(pose: Tensor) -> tuple[Tensor, Tensor]:
        return render(replace(poses, pose=pose), WINDOW, WINDOW, stride).split((3, 1), 1)

    def residual(pose: Tensor) -> Tensor:
        color, alpha = draw(pose)
        return (root * (seen - under * (1 - alpha) - color)).flatten(1)

    pose, damping = poses.pose - offset, torch.full((len(corner), 1), 0.02)
    error = residual(pose)
    for _ in range(steps):
        jacobian = torch.stack([(residual(pose + step) - error) / step.sum() for step in torch.diag(small)], 1)
        normal = jacobian @ jacobian.transpose(1, 2)
        normal += torch.diag_embed(damping * normal.diagonal(dim1=1, dim2=2) + 1e-3)
        step = torch.linalg.solve(normal, (jacobian @ error[:, :, None])[:, :, 0])
        trial = pose - step.clamp(-limit, limit)
        trial[:, 2].clamp_(*SIZE_RANGE)
        trial_error = residual(trial)
        better = (trial_error.square().sum(1) < error.square().sum(1))[:, None]
        pose, error = torch.where(better, trial, pose), torch.where(better, trial_error, error)
        damping = torch.where(better, damping * 0.3, damping * 8)

    gain = ((free * (seen - under) ** 2).sum((1, 2, 3)) - error.square().sum(1)) * stride**2
    color, alpha = draw(pose)
    visible = (free * alpha).sum((1, 2, 3)) / alpha.sum((1, 2, 3)).clamp(min=1)
    score = _likeness(seen, color + (1 - alpha) * under, free * alpha)
    return _Fit(replace(poses, pose=pose + offset), gain, score, visible)


def _best(fit: _Fit, count: int) -> Tensor:
    """Which fits (indices) are the `count` best of each frame. A large sprite that covers two actors gains much, but is
    like neither: so gain counts by likeness."""
    value = fit.gain * fit.score.clamp(min=0.05)
    order = value.argsort(descending=True)
    order = order[fit.poses.frame[order].argsort(stable=True)]
    frame = fit.poses.frame[order]
    first = torch.searchsorted(frame, frame)
    return order[torch.arange(len(order)) - first < count]


def _likeness(seen: Tensor, sprite: Tensor, weight: Tensor) -> Tensor:
    """Lin's concordance of two pictures (N, 3, H, W) under `weight` (N, 1, H, W): 1 when they are the same; it falls
    with other patterns, contrasts and mean colours. FAINT keeps what varies little from hanging on its details."""
    area = weight.sum((1, 2, 3)).clamp(min=1e-6)

    def mean(values: Tensor) -> Tensor:
        return (weight * values).sum((2, 3)) / area[:, None]

    def spread(a: Tensor, b: Tensor) -> Tensor:
        return (mean(a * b) - mean(a) * mean(b)).sum(1) + FAINT

    shift = (mean(seen) - mean(sprite)).square().sum(1)
    return 2 * spread(seen, sprite) / (spread(seen, seen) + spread(sprite, sprite) + shift)


def stage_of(frames: np.ndarray) -> tuple[str, dict[str, float]]:
    """The painted stage that uint8 frames (T, HEIGHT, WIDTH, 3) show, and how far each one is: the median over pixels
    and frames of the colour difference, 0..1, so that actors do not count."""
    seen = to_tensor(frames)
    distance = {name: float((seen - _stage(name)).abs().mean(1).median()) for name in STAGES}
    return min(distance, key=distance.__getitem__), distance


def find(
    frames: np.ndarray, names: Sequence[str] = CAST, stage: str | None = None
) -> list[dict[str, Detection | None]]:
    """Where each of `names` is in each frame of uint8 (T, HEIGHT, WIDTH, 3), or None where it is not seen.

    The frames are one scene, whose cast is decided first, from some of the frames and among all characters, whatever
    the names; then each frame is searched for that cast. `stage` is recognised when it is not given. Of a character
    that is seen twice the one more alike and less hidden counts. Raises InputError for other shapes and unknown names.
    """
    if frames.ndim != 4 or frames.shape[1:] != (HEIGHT, WIDTH, 3) or frames.dtype != np.uint8 or not len(frames):
        raise InputError(f"frames are {frames.dtype} {frames.shape}; the judge reads uint8 (T, {HEIGHT}, {WIDTH}, 3)")
    if unknown := [name for name in names if name not in CHARACTERS]:
        raise InputError(f"character {unknown[0]!r} is not in the cast: {', '.join(CAST)}")
    seen, painted = to_tensor(frames), _stage(stage or stage_of(frames)[0])
    some = _search(seen[:: max(1, len(frames) // SAMPLED)], painted, torch.arange(len(CAST)), MIN_SCORE)
    evidence = [sum(d.score - MIN_SCORE for here in some if (d := here.get(n)) and d.size > SMALL) for n in CAST]
    cast = [index for index, total in enumerate(evidence) if total > MIN_EVIDENCE * len(some)]
    found = _search(seen, painted, torch.tensor(cast), MIN_SCORE_OF_CAST) if cast else [{}] * len(frames)
    return [{name: here.get(name) for name in names} for here in found]


def _search(seen: Tensor, painted: Tensor, cast: Tensor, min_score: float) -> list[dict[str, Detection]]:
    """The characters of `cast` (indices in CAST) in each frame of `seen` (T, 3, H, W) on the stage (1, 3, H, W)."""
    model, weight = painted.repeat(len(seen), 1, 1, 1), torch.ones(len(seen), 1, HEIGHT, WIDTH)
    found: list[dict[str, Detection]] = [{} for _ in seen]
    live = torch.arange(len(seen))
    for _ in range(LOOKS):
        picture = seen[live], model[live], weight[live]
        candidates = _propose(*picture, cast)
        rough = _fit(*picture, candidates, steps=3, stride=2)
        fit = _fit(*picture, rough.poses[_best(rough, FINALISTS)], steps=3, stride=1)
        # what is half hidden must be the more alike
        fit = fit[(fit.gain > MIN_GAIN) & (fit.visible > MIN_VISIBLE) & (fit.score > 1 - (1 - min_score) * fit.visible)]
        fit = fit[_best(fit, 1)]
        if not len(fit.gain):
            break
        poses, live = fit.poses, live[fit.poses.frame]
        color, alpha = render(poses).split((3, 1), 1)
        model[live] = model[live] * (1 - alpha) + color
        wrong = (seen[live] - model[live]).square().sum(1, keepdim=True)
        weight[live] *= 1 - ((alpha > 0.5) & (wrong < EXPLAINED)).float()
        for n, t in enumerate(live.tolist()):
            name, new = CAST[poses.character[n]], _detection(fit, n, alpha[n, 0])
            old = found[t].setdefault(name, new)
            if new.score * new.visible > old.score * old.visible:
                found[t][name] = new
    return found


def _detection(fit: _Fit, n: int, alpha: Tensor) -> Detection:
    x, y, log_size, angle = fit.poses.pose[n].tolist()
    mask = (alpha > 0.5).numpy()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (0.0, 0.0, 0.0, 0.0)
    if len(rows):
        box = (columns[0] / WIDTH, rows[0] / HEIGHT, (columns[-1] + 1) / WIDTH, (rows[-1] + 1) / HEIGHT)
    turn = (np.rad2deg(angle) + 180) % 360 - 180
    right, score, visible = bool(fit.poses.right[n]), float(fit.score[n]), float(fit.visible[n])
    return Detection(x, y, float(np.exp(log_size)), float(turn), right, score, visible, box, mask)
