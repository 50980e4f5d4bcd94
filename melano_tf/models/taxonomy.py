"""A tree of classes: which decisions lead to which class, and how their probabilities combine.

Numbering: internal nodes and decisions are both counted breadth first. A decision is a node other than the root, taken
at its parent; the decisions of one node stand together, in the order in which the tree is written.
"""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from melano_tf.errors import InputError


@dataclass(frozen=True)
class Taxonomy:
    """A tree whose leaves are the classes, each once (sample weighting, section 4.1; its words in `data_specs`).

    Attributes:
        classes: labels of the leaves in the order of the model's outputs, (C,).
        nodes: the internal nodes by path ("non-melanocytic/benign"), (N,); the first is the root, "".
        decisions: all nodes but the root by path ("non-melanocytic/benign/BKL"), (D,).
        children: how many decisions each internal node has, (N,); their sum is D.
        parents: the node above each internal node, (N,); -1 above the root.
        entries: the decision that leads to each internal node, (N,); -1 for the root.
        paths: of each class the decisions that lead to it, from the root, (C,) of 1 to `depth`.
    """

    classes: tuple[str, ...]
    nodes: tuple[str, ...]
    decisions: tuple[str, ...]
    children: tuple[int, ...]
    parents: tuple[int, ...]
    entries: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]

    @classmethod
    def from_mapping(cls, tree: Any, classes: Sequence[str]) -> "Taxonomy":
        """From nested mappings and lists, as YAML holds them: {name: children or label}, [label or {name: ...}, ...].

        Args:
            tree: the root's children. A name without children ({name: null}) is a label itself.
            classes: all labels, in the order of the model's outputs.

        Raises:
            InputError: a class that is no leaf, or one twice; an unknown label; a node with fewer than two children; a
                circle (a YAML anchor within itself); something that is no tree: all faults, a line each.
        """
        reader = _Reader(tuple(classes))
        root = reader.node(tree, (), ())
        reader.check_leaves()
        if reader.faults:
            raise InputError.of("taxonomy:", reader.faults)
        return _numbered(root, tuple(classes))

    @property
    def depth(self) -> int:
        """Decisions on the longest path, L."""
        return max(map(len, self.paths))

    def path_matrix(self) -> np.ndarray:
        """1 where a decision lies on the path to a class, float32 (C, D)."""
        matrix = np.zeros((len(self.classes), len(self.decisions)), np.float32)
        for row, path in enumerate(self.paths):
            matrix[row, list(path)] = 1.0
        return matrix

    def greedy(self, conditional: np.ndarray) -> np.ndarray:
        """The class at which one arrives by taking the most probable decision at each node, int64 (B,).

        It need not be the most probable class: 0.6 x 0.5 is less than 0.4 x 0.9.
        """
        leaf = {path: index for index, path in enumerate(self.paths)}
        starts = np.cumsum([0, *self.children])
        node_of = {decision: node for node, decision in enumerate(self.entries)}
        found = []
        for row in np.asarray(conditional):
            node = 0
            path: tuple[int, ...] = ()
            while path not in leaf:
                best = int(starts[node] + np.argmax(row[starts[node] : starts[node + 1]]))
                path = (*path, best)
                node = node_of.get(best, -1)
            found.append(leaf[path])
        return np.array(found, np.int64)

    def greedy_of(self, probabilities: np.ndarray) -> np.ndarray:
        """`greedy` from the classes' probabilities alone, (B, C) -> int64 (B,).

        What lies under a node adds up to the probability of reaching it, so that the larger sum is the larger decision.
        """
        return self.greedy(np.asarray(probabilities, np.float64) @ self.path_matrix())

    def last_nodes(self, classes: np.ndarray) -> np.ndarray:
        """The node at which the last decision for each of these classes is taken, int64 (B,)."""
        starts = np.cumsum([0, *self.children])
        last = np.array([path[-1] for path in self.paths])
        return np.searchsorted(starts, last, side="right")[np.asarray(classes, np.int64)] - 1


@dataclass
class _Node:
    """One node while the tree is read; a leaf has a label and no children."""

    path: tuple[str, ...]
    label: str | None = None
    children: "list[_Node]" = field(default_factory=list)


class _Reader:
    """Reads nested mappings and lists; collects what is wrong with them."""

    def __init__(self, classes: tuple[str, ...]) -> None:
        self.classes = classes
        self.faults: list[str] = []
        self.leaves: list[tuple[str, str]] = []  # (label, path)

    def node(self, value: Any, path: tuple[str, ...], above: tuple[int, ...]) -> _Node:
        found = _Node(path)
        if id(value) in above:
            self.faults.append(f"{_words(path)}: is its own ancestor; a tree has no circle")
            return found
        entries = self._entries(value, path)
        for name, child in entries:
            found.children.append(self._child(name, child, path, (*above, id(value))))
        for name, times in Counter(name for name, _ in entries).items():
            if times > 1 and name not in self.classes:
                self.faults.append(f"{_words(path)}: {name!r} stands {times} times under it")
        if len(entries) < 2:
            self.faults.append(f"{_words(path)}: has {len(entries)} child(ren); a decision needs two or more")
        return found

    def _child(self, name: str, child: Any, path: tuple[str, ...], above: tuple[int, ...]) -> _Node:
        here = (*path, name)
        if child is not None and not isinstance(child, str):
            return self.node(child, here, above)
        label = name if child is None else child
        self.leaves.append((label, "/".join(here)))
        return _Node(here, label)

    def _entries(self, value: Any, path: tuple[str, ...]) -> list[tuple[str, Any]]:
        """The (name, children or label) of each child."""
        if isinstance(value, Mapping):
            pairs: list[tuple[Any, Any]] = list(value.items())
        elif isinstance(value, list | tuple):
            pairs = []
            for item in value:
                pairs += list(item.items()) if isinstance(item, Mapping) else [(item, None)]
        else:
            self.faults.append(f"{_words(path)}: expected a mapping, a list or a label, found {value!r}")
            return []
        for name, _ in pairs:
            if not isinstance(name, str):
                kind = type(name).__name__
                self.faults.append(f"{_words(path)}: a child's name must be text, and one is a {kind}; quote it")
        return [(name, child) for name, child in pairs if isinstance(name, str)]

    def check_leaves(self) -> None:
        """Every class exactly once."""
        places: dict[str, list[str]] = {}
        for label, path in self.leaves:
            places.setdefault(label, []).append(path)
        for label, paths in places.items():
            if label not in self.classes:
                self.faults.append(f"{paths[0]}: {label!r} is no class; there are {', '.join(self.classes)}")
            elif len(paths) > 1:
                self.faults.append(f"class {label!r}: is a leaf {len(paths)} times ({', '.join(paths)})")
        for label in self.classes:
            if label not in places:
                self.faults.append(f"class {label!r}: is no leaf of the tree")
        for label, times in Counter(self.classes).items():
            if times > 1:
                self.faults.append(f"class {label!r}: stands {times} times among the classes")


def _words(path: tuple[str, ...]) -> str:
    return "/".join(path) or "the root"


def _numbered(root: _Node, classes: tuple[str, ...]) -> Taxonomy:
    nodes, children, parents, entries = [""], [], [-1], [-1]
    decisions: list[str] = []
    paths: dict[str, tuple[int, ...]] = {}
    waiting: deque[tuple[_Node, int, tuple[int, ...]]] = deque([(root, 0, ())])
    while waiting:
        node, number, path = waiting.popleft()
        children.append(len(node.children))
        for child in node.children:
            here = (*path, len(decisions))
            decisions.append("/".join(child.path))
            if child.label is not None:
                paths[child.label] = here
            else:
                waiting.append((child, len(nodes), here))
                nodes.append("/".join(child.path))
                parents.append(number)
                entries.append(here[-1])
    ordered = tuple(paths[label] for label in classes)
    tree = (tuple(nodes), tuple(decisions), tuple(children), tuple(parents), tuple(entries))
    return Taxonomy(classes, *tree, ordered)
