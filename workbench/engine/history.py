"""History: the tree of variants. Undo and redo are moving in it; nothing is ever recomputed to go back."""

from __future__ import annotations

from dataclasses import dataclass, field

from .variant import Variant


@dataclass
class Node:
    """One variant, the one it was made after, and where redo leads."""

    variant: Variant
    parent: int | None
    redo: int | None = field(default=None)


class History:
    """Variants in the order they were made; entry 0 is the unchanged base. `active` is the one on the bench."""

    def __init__(self, base: Variant):
        self.nodes = [Node(base, None)]
        self.active = 0

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def variant(self) -> Variant:
        return self.nodes[self.active].variant

    @property
    def variants(self) -> list[Variant]:
        return [node.variant for node in self.nodes]

    def add(self, variant: Variant, parent: int | None = None) -> None:
        """A new variant after `parent` (the active one by default); it becomes active."""
        parent = self.active if parent is None else parent
        self.nodes.append(Node(variant, parent))
        self.nodes[parent].redo = len(self.nodes) - 1
        self.active = len(self.nodes) - 1

    def replace(self, index: int, variant: Variant) -> None:
        """The same variant with more known of it (its measures)."""
        self.nodes[index].variant = variant

    def go(self, index: int) -> None:
        if not 0 <= index < len(self.nodes):
            raise IndexError(f"there is no variant {index}: there are {len(self.nodes)}")
        self.active = index

    @property
    def can_undo(self) -> bool:
        return self.nodes[self.active].parent is not None

    @property
    def can_redo(self) -> bool:
        return self.nodes[self.active].redo is not None

    def undo(self) -> None:
        parent = self.nodes[self.active].parent
        if parent is not None:
            # Redo leads back to where undo came from, also when it was reached by a click.
            self.nodes[parent].redo = self.active
            self.active = parent

    def redo(self) -> None:
        following = self.nodes[self.active].redo
        if following is not None:
            self.active = following
