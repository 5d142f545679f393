"""What a frozen encoder made of a clip or a text, kept under the hash of what it was given: each is encoded once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from engine.unfinished import pack, unpack

MEMORY_BYTES = 256_000_000


@dataclass(frozen=True)
class Shelf:
    """Where encodings outlive the process, by key."""

    load: Callable[[str], bytes | None] = lambda key: None
    save: Callable[[str, bytes], None] = lambda key, data: None


class Encodings:
    """Of one model in one dtype on one kind of device, which `about` names. The latest are in memory, up to
    `MEMORY_BYTES`; `shelf`, which may be another for every job, has them all."""

    def __init__(self, about: str) -> None:
        self.about, self.shelf = about, Shelf()
        self.memory: OrderedDict[str, torch.Tensor] = OrderedDict()

    def get(self, what: str, data: bytes, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """The encoding of `data`, on the CPU; `what` names its kind. Threads decide last bits, so they count."""
        given = f"{self.about}\0{torch.get_num_threads()}\0{what}\0".encode() + data
        key = hashlib.sha256(given).hexdigest()[:40]
        if key in self.memory:
            self.memory.move_to_end(key)
            return self.memory[key]
        if found := unpack(self.shelf.load(key)):
            made = found[0]["encoding"]
        else:
            made = make().detach().cpu()
            self.shelf.save(key, pack({"encoding": made}, {"what": what}))
        self.memory[key] = made
        while len(self.memory) > 1 and sum(t.nbytes for t in self.memory.values()) > MEMORY_BYTES:
            self.memory.popitem(last=False)
        return made
