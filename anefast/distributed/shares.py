"""Each rank keeps the optimiser's states of its own part of the weights (ZeRO, arXiv 1910.02054,
stage 1).

The block of gradients is cut into one run of floats for each rank. A rank gets the sums of its
part, updates those weights, and gives them to all. Norms are summed panel by panel in one order,
and cuts lie between panels, so that every byte is that of a rank which has everything. Tensors
whose update needs all of their values (Muon's matrices, Adafactor's) stay whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from anefast import _C
from anefast.distributed.world import Floats, World
from anefast.models.parameters import Params, block, places
from anefast.optim.optimizer import in_order

Arrays = Mapping[str, Floats]
Cuts = dict[str, slice]


class Shares:
    """Who has which part.

    grads: made by `zeros_of`. splits: whether the tensor of a name may be cut between panels.
    `ends` are floats of that block: where each rank's part begins, and where the last one ends.
    """

    def __init__(self, grads: Params, world: World, splits: Callable[[str], bool]) -> None:
        self.world, self.grads = world, grads
        self._block = block(grads)
        self._places = places(grads)
        floats = sum(g.size for g in grads.values())
        self.ends = [0]
        for rank in range(1, world.size):
            end = self._cut(floats * rank // world.size, splits)
            self.ends.append(max(end, self.ends[-1]))
        self.ends.append(len(self._block))

    def _cut(self, wanted: int, splits: Callable[[str], bool]) -> int:
        """The place in the block nearest to `wanted` values where it may be cut."""
        before = 0
        for name, g in self.grads.items():
            if before + g.size > wanted:
                panel = _C.UPDATE_PANEL if splits(name) else g.size
                inside = round((wanted - before) / panel) * panel
                at, next_one = self._places[name]
                return at + inside if inside < g.size else next_one
            before += g.size
        return len(self._block)

    def of(self, rank: int) -> Cuts:
        """A rank's part of each tensor, as slices of the flat tensor."""
        found = {}
        for name, g in self.grads.items():
            at = self._places[name][0]
            first = max(self.ends[rank] - at, 0)
            last = min(self.ends[rank + 1] - at, g.size)
            if first < last:
                found[name] = slice(first, last)
        return found

    def squares(self, own: npt.NDArray[np.float64]) -> float:
        """The sum of squares of all gradients, from those of each rank's panels."""
        return in_order(np.array([s for row in self.world.numbers([own.tolist()]) for s in row]))

    def spread(self, arrays: Arrays) -> None:
        """Each rank's part of `arrays` becomes that of all. The gradients are lost: their block is
        the room for it."""
        for name, cut in self.of(self.world.rank).items():
            self.grads[name].reshape(-1)[cut] = arrays[name].reshape(-1)[cut]
        self.world.gather(self._block, self.ends)
        for name, array in arrays.items():
            array[...] = self.grads[name]

    def whole(self, own: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
        """On rank 0 the arrays of one state of all tensors, from each rank's; {} on the others.

        shapes: of all tensors' states.
        """
        flat = [a.reshape(-1) for a in own.values()]
        mine = np.concatenate(flat) if flat else np.empty(0, np.float32)
        full: dict[str, Floats] = {}
        if self.world.rank == 0:
            full = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        for rank, floats in enumerate(self.world.collect(mine)):
            at = 0
            for name, cut in self.of(rank).items():
                if name not in full:
                    continue
                whole = cut.stop - cut.start == self.grads[name].size
                place = full[name].reshape(-1)[slice(None) if whole else cut]
                place[...] = floats[at : at + len(place)]
                at += len(place)
        return full

    def part(self, name: str, array: Floats) -> Floats:
        """This rank's part of a state of a whole tensor."""
        cut = self.of(self.world.rank)[name]
        whole = cut.stop - cut.start == self.grads[name].size
        return array if whole else array.reshape(-1)[cut]


def nbytes(shapes: Mapping[str, Mapping[str, tuple[int, ...]]]) -> int:
    """Bytes of states of these shapes."""
    return 4 * sum(math.prod(shape) for of_state in shapes.values() for shape in of_state.values())
