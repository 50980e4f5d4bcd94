"""Trees of classes: how they are numbered, what is refused, and products along paths by loops."""

import itertools

import numpy as np
import pytest
import yaml

from melano_tf.errors import InputError
from melano_tf.models.taxonomy import Taxonomy
from melano_tf.specs import load_spec

DEEP = {"a": ["A", {"b": {"c": ["D", "C"], "x": "B"}}], "e": "E"}  # depth 1, 2, 3 and 4


def isic() -> Taxonomy:
    spec = load_spec("isic2018")
    return Taxonomy.from_mapping(spec["taxonomy"], tuple(spec["labels"]))


def test_the_papers_tree() -> None:
    tree = isic()
    assert tree.classes == ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC")
    assert tree.nodes == (
        *("", "melanocytic", "non-melanocytic"),
        *("non-melanocytic/benign", "non-melanocytic/malignant"),
    )
    assert tree.decisions[:6] == (
        *("melanocytic", "non-melanocytic", "melanocytic/NV", "melanocytic/MEL"),
        *("non-melanocytic/benign", "non-melanocytic/malignant"),
    )
    assert tree.children == (2, 2, 2, 3, 2)
    assert tree.parents == (-1, 0, 0, 2, 2)
    assert tree.entries == (-1, 0, 1, 4, 5)
    # L = 2 for melanocytic lesions and 3 for the others (section 4.3).
    assert [len(path) for path in tree.paths] == [2, 2, 3, 3, 3, 3, 3]
    assert tree.depth == 3
    assert [tree.decisions[i] for i in tree.paths[4]] == [
        *("non-melanocytic", "non-melanocytic/benign", "non-melanocytic/benign/BKL")
    ]


def test_an_unbalanced_tree_with_leaves_at_every_depth() -> None:
    tree = Taxonomy.from_mapping(DEEP, "ABCDE")
    assert tree.nodes == ("", "a", "a/b", "a/b/c")
    assert tree.decisions == ("a", "e", "a/A", "a/b", "a/b/c", "a/b/x", "a/b/c/D", "a/b/c/C")
    assert tree.paths == ((0, 2), (0, 3, 5), (0, 3, 4, 7), (0, 3, 4, 6), (1,))
    assert tree.last_nodes(np.array([0, 1, 2, 3, 4])).tolist() == [1, 2, 3, 3, 0]
    flat = Taxonomy.from_mapping(["B", "A"], "AB")
    assert (flat.nodes, flat.paths, flat.depth) == (("",), ((1,), (0,)), 1)
    np.testing.assert_array_equal(tree.path_matrix().sum(axis=1), [2, 3, 4, 4, 1])
    assert Taxonomy.from_mapping({"A": None, "b": "B"}, "AB").decisions == ("A", "b")


def leaf_probabilities(tree: Taxonomy, conditional: np.ndarray) -> np.ndarray:
    """Each class's probability, the product along its path: (B, D) -> (B, C)."""
    return np.stack([conditional[:, list(path)].prod(axis=1) for path in tree.paths], axis=1)


@pytest.mark.parametrize("tree", [isic(), Taxonomy.from_mapping(DEEP, "ABCDE")])
def test_leaves_are_products_along_their_paths_and_sum_to_one(tree: Taxonomy) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.dirichlet(np.ones(count), size=50) for count in tree.children]
    conditional = np.concatenate(parts, axis=1)
    leaves = leaf_probabilities(tree, conditional)
    np.testing.assert_allclose(leaves.sum(axis=1), 1, rtol=1e-12)
    for row, (label, path) in itertools.product(range(50), enumerate(tree.paths)):
        product = 1.0
        for decision in path:
            product *= conditional[row, decision]
        assert leaves[row, label] == pytest.approx(product, rel=1e-12)
    # The greedy path by names alone: the best child, then the best among those whose name goes on from there.
    for row, label in enumerate(tree.greedy(conditional)):
        here = ""
        while True:
            below = [
                (conditional[row, i], name) for i, name in enumerate(tree.decisions) if name.rpartition("/")[0] == here
            ]
            if not below:
                break
            here = max(below)[1]
        assert tree.decisions[tree.paths[label][-1]] == here


def test_the_greedy_path_need_not_end_at_the_most_probable_class() -> None:
    tree = Taxonomy.from_mapping({"a": ["A", "B"], "c": ["C", "D"]}, "ABCD")
    conditional = np.array([[0.6, 0.4, 0.5, 0.5, 0.9, 0.1], [0.9, 0.1, 0.2, 0.8, 0.5, 0.5]])
    np.testing.assert_allclose(leaf_probabilities(tree, conditional)[0], [0.3, 0.3, 0.36, 0.04])
    assert leaf_probabilities(tree, conditional).argmax(axis=1).tolist() == [2, 1]
    assert tree.greedy(conditional).tolist() == [0, 1]
    assert tree.greedy(np.zeros((0, 6))).shape == (0,)


@pytest.mark.parametrize(
    "written, faults",
    [
        ("a: [A, B]\nc: [C, D]", ["class 'E': is no leaf of the tree"]),
        ("a: [A, B]\nc: [C, D, A, E]", ["class 'A': is a leaf 2 times (a/A, c/A)"]),
        ("a: &x [A, B]\nb: *x\nc: [C, D, E]", ["class 'A': is a leaf 2 times", "class 'B': is a leaf 2 times"]),
        ("a: [A, B]\nc: [C, D, E, F]", ["c/F: 'F' is no class; there are A, B, C, D, E"]),
        ("a: [A, B]\nc: [C, D]\ne: [E]", ["e: has 1 child(ren); a decision needs two or more"]),
        ("a: [A, B, C, D, E]", ["the root: has 1 child(ren)"]),
        ("a: &x\n  b: *x\n  c: [A, B]\nd: [C, D, E]", ["a/b: is its own ancestor; a tree has no circle"]),
        ("a: [A, B]\nc: &x [C, D, E, {again: *x}]", ["c/again: is its own ancestor"]),
        ("a: [A, B]\nc: 7\nd: [C, D, E]", ["c: expected a mapping, a list or a label, found 7"]),
        ("a: [A, B]\nc: []\nd: [C, D, E]", ["c: has 0 child(ren)"]),
        ("a: [A, B]\nno: [C, D, E]", ["the root: a child's name must be text, and one is a bool; quote it"]),
        ("[A, B, C, D, E, {n: [A, B]}, {n: [C, D]}]", ["the root: 'n' stands 2 times under it"]),
        ("a: [A, Z]\nb: [B]", ["a/Z: 'Z' is no class", "b: has 1 child", "class 'C'", "class 'D'", "class 'E'"]),
    ],
)
def test_what_is_no_tree_of_the_classes_is_refused_with_a_line_each(written: str, faults: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        Taxonomy.from_mapping(yaml.safe_load(written), "ABCDE")
    headline, *lines = str(caught.value).splitlines()
    assert headline == "taxonomy:"
    for fault in faults:
        assert len([line for line in lines if line.startswith(f"  - {fault}")]) == 1, lines


def test_only_the_fault_is_named_and_a_class_twice_is_one() -> None:
    with pytest.raises(InputError) as caught:
        Taxonomy.from_mapping({"a": ["A", "B"], "c": ["C", "D", "E", "A"]}, "ABCDE")
    assert len(str(caught.value).splitlines()) == 2
    with pytest.raises(InputError, match="class 'A': stands 2 times among the classes"):
        Taxonomy.from_mapping(["A", "B"], "ABA")
    with pytest.raises(InputError, match="the root: expected a mapping"):
        Taxonomy.from_mapping(None, "AB")
