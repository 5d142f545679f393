"""Workers that are free, by what they hold: the best ones for a job are found without looking at all of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

LOOK_AT = 16  # holders of a scene's rarest LoRA that are compared


class Worker(NamedTuple):
    """An idle worker: the model it has resident (None: none yet), its LoRAs, how fast it is beside the others, and its
    node."""

    model: str | None
    loras: frozenset[str]
    speed: float
    node: str


class Idle:
    """Insertion order decides between equals, so the same history gives the same choice. OrderedDict: a dict finds its
    first item by passing all that were removed before it."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}
        self._by_model: dict[str | None, dict[float, OrderedDict[str, None]]] = {}
        self._by_lora: dict[str, OrderedDict[str, None]] = {}
        self._by_node: dict[str, OrderedDict[str, None]] = {}

    def __len__(self) -> int:
        return len(self.workers)

    def __contains__(self, name: str) -> bool:
        return name in self.workers

    def add(self, name: str, model: str | None, loras: Iterable[str] = (), speed: float = 1.0, node: str = "") -> None:
        self.remove(name)
        worker = self.workers[name] = Worker(model, frozenset(loras), speed, node)
        self._by_node.setdefault(node, OrderedDict())[name] = None
        self._by_model.setdefault(model, {}).setdefault(speed, OrderedDict())[name] = None
        for lora in worker.loras:
            self._by_lora.setdefault(lora, OrderedDict())[name] = None

    def remove(self, name: str) -> None:
        """It is no error when the worker was not idle."""
        worker = self.workers.pop(name, None)
        if worker is None:
            return
        speeds = self._by_model[worker.model]
        del speeds[worker.speed][name]
        if not speeds[worker.speed]:
            del speeds[worker.speed]
            if not speeds:
                del self._by_model[worker.model]
        for lora in worker.loras:
            del self._by_lora[lora][name]
            if not self._by_lora[lora]:
                del self._by_lora[lora]
        del self._by_node[worker.node][name]
        if not self._by_node[worker.node]:
            del self._by_node[worker.node]

    def take(self, model: str, loras: Sequence[str], count: int) -> tuple[str, ...]:
        """Removes and returns the `count` best workers for a job; there are as many. Several are of one node, when a
        node has so many idle ones."""
        taken = self._neighbours(model, loras, count) if count > 1 else []
        while len(taken) < count:
            taken.append(self._holder(model, loras) or self._any(model))
            self.remove(taken[-1])
        return tuple(taken)

    def _neighbours(self, model: str, loras: Sequence[str], count: int) -> list[str]:
        """Removes and returns the best of the node that has the best for a job; none when no node has enough."""
        wanted = frozenset(loras)

        def worth(name: str) -> tuple[bool, int, bool, float]:
            worker = self.workers[name]
            return worker.model == model, len(worker.loras & wanted), worker.model is None, worker.speed

        fits = [
            sorted(names, key=worth, reverse=True)[:count] for names in self._by_node.values() if len(names) >= count
        ]
        if not fits:
            return []
        best = max(fits, key=lambda names: [worth(name) for name in names])
        for name in best:
            self.remove(name)
        return best

    def _holder(self, model: str, loras: Sequence[str]) -> str | None:
        """One that has the model and most of the LoRAs."""
        held: list[OrderedDict[str, None]] = [self._by_lora[lora] for lora in loras if lora in self._by_lora]
        if not held:
            return None
        wanted = frozenset(loras)
        rarest = min(held, key=lambda names: len(names))
        best = max(islice(rarest, LOOK_AT), key=lambda n: (len(self.workers[n].loras & wanted), self.workers[n].speed))
        return best if self.workers[best].model == model else None

    def _any(self, model: str) -> str:
        """One that has the model, or none yet; else one of those whose model most idle workers have."""
        speeds = self._by_model.get(model) or self._by_model.get(None)
        if speeds is None:
            speeds = max(self._by_model.values(), key=lambda by_speed: sum(map(len, by_speed.values())))
        return next(iter(speeds[max(speeds)]))
