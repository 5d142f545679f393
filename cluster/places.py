"""Where workers run: those of one scene in one placement group, on one node as long as a node has room for them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.local import SLOT


@dataclass
class _Group:
    group: PlacementGroup
    free: list[int]  # bundles without a worker
    size: int


@dataclass
class Places:
    """Gives workers their Ray options. Workers that share scenes by `together` come in placement groups of so many
    (PACK: a scene may ask for more than one node has); a group goes when its last worker has left it."""

    owner: str
    gpus: int  # of a worker
    groups: list[_Group] = field(default_factory=list)
    of: dict[str, tuple[_Group, int]] = field(default_factory=dict)  # worker -> group, bundle

    def clear(self) -> None:
        """Removes groups that an owner of this name left when its process was killed: their room would be lost."""
        for about in placement_group_table().values():
            if about["name"].startswith(f"{self.owner}/") and about["state"] != "REMOVED":
                remove_placement_group(_by_id(about["placement_group_id"]))

    def take(self, names: list[str], together: int) -> list[dict[str, Any]]:
        """For each new worker its options: room left in groups first, then new groups."""
        options = []
        for n, name in enumerate(names):
            room = next((group for group in self.groups if group.free), None) if together > 1 else None
            if room is None and min(together, len(names) - n) > 1:
                room = self._new(min(together, len(names) - n))
            where: dict[str, Any] = {}
            if room:
                self.of[name] = room, room.free.pop(0)
                where["scheduling_strategy"] = PlacementGroupSchedulingStrategy(room.group, self.of[name][1])
            options.append({"name": name, "resources": {SLOT: 1}, "num_gpus": self.gpus, **where})
        return options

    def give_back(self, name: str) -> None:
        """A worker has ended."""
        if name not in self.of:
            return
        about, bundle = self.of.pop(name)
        about.free.append(bundle)
        if len(about.free) == about.size:
            self.groups.remove(about)
            remove_placement_group(about.group)

    def _new(self, size: int) -> _Group:
        bundle = {SLOT: 1.0, **({"GPU": float(self.gpus)} if self.gpus else {})}
        group = placement_group([bundle] * size, strategy="PACK", name=f"{self.owner}/{uuid.uuid4().hex[:8]}")
        self.groups.append(made := _Group(group, list(range(size)), size))
        return made


def _by_id(hexadecimal: str) -> PlacementGroup:
    from ray import PlacementGroupID

    return PlacementGroup(PlacementGroupID(bytes.fromhex(hexadecimal)))
