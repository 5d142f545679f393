"""Live progress of films on the terminal: a bar for each film, and one for each scene under way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from serving.render import Film


class Progress:
    """A context; `update` takes the studio's states of the same films."""

    def __init__(self, console: Console, films: Sequence[Film]) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
        )
        self.films = films
        self.bars = Bars(*columns, TimeElapsedColumn(), console=console)
        self.film_bars: list[TaskID] = []
        self.scene_bars: dict[tuple[int, str], TaskID] = {}

    def __enter__(self) -> Progress:
        self.bars.start()
        for film in self.films:
            scenes = len(film.request.plan.scenes)
            self.film_bars.append(self.bars.add_task(f"[bold]{film.folder.name}", total=scenes, unit="scenes"))
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def update(self, states: Sequence[dict[str, Any]]) -> None:
        for number, (film, state) in enumerate(zip(self.films, states, strict=True)):
            done = sum(scene["state"] == "done" for scene in state["scenes"])
            total = len(film.request.plan.scenes)
            self.bars.update(self.film_bars[number], completed=total if state["state"] == "done" else done)
            for scene in state["scenes"]:
                self._scene(number, scene, film.request.settings.num_inference_steps)

    def _scene(self, film: int, scene: dict[str, Any], steps: int) -> None:
        key = film, scene["id"]
        if scene["state"] == "running":
            if key not in self.scene_bars:
                self.scene_bars[key] = self.bars.add_task(f"  {scene['id']}", total=steps, unit="steps")
            self.bars.update(self.scene_bars[key], completed=scene["step"])
        elif key in self.scene_bars:
            self.bars.remove_task(self.scene_bars.pop(key))
