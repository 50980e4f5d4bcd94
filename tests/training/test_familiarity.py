"""How far a case is from a training: against naive loops and scikit-learn, and what it may not depend on."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from melano_tf.errors import InputError
from melano_tf.training import familiarity
from melano_tf.training.familiarity import (
    Familiarity,
    familiar_path,
    fit_familiarity,
    read_familiarity,
    shrunk_covariance,
    spread,
)


def drawn(rows: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of lopsided spread around a direction, and looks whose numbers have different units."""
    rng = np.random.default_rng(seed)
    embeddings = np.abs(rng.normal(size=(rows, 7)) * np.linspace(0.1, 1.3, 7)) + np.arange(7) + shift
    looks = rng.normal(size=(rows, 3)) @ np.array([[1.0, 0.8, 0.0], [0.0, 0.1, 0.0], [0.3, 0.0, 40.0]]) + shift
    return embeddings, looks


def fitted(rows: int = 40, held: int = 25) -> Familiarity:
    """A description of training cases, with some held out."""
    found = fit_familiarity(*drawn(rows, 1), ["one"] * rows, drawn(held, 2))
    assert found is not None
    return found


def test_the_distance_is_that_of_a_naive_loop() -> None:
    (embeddings, looks), (asked, shown) = drawn(30, 3), drawn(6, 4, 0.5)
    found = fit_familiarity(embeddings, looks, ["one"] * 30, drawn(9, 5))
    assert found is not None
    directions = np.array([one / np.sqrt(sum(one**2)) for one in embeddings])

    def far(x: np.ndarray, known: np.ndarray, units: np.ndarray) -> float:
        inverse = np.linalg.inv(LedoitWolf().fit(known / units).covariance_)
        left = (x - known.mean(axis=0)) / units
        width = range(len(left))
        return float(np.sqrt(sum(left[i] * inverse[i, j] * left[j] for i in width for j in width)))

    def naive(embedding: np.ndarray, look: np.ndarray) -> tuple[float, float]:
        direction = embedding / np.sqrt(sum(embedding**2))
        return far(direction, directions, np.ones(7)), far(look, looks, looks.std(axis=0))

    held = np.array([naive(*pair) for pair in zip(*drawn(9, 5), strict=True)])
    each = held.max(axis=0)  # of nine cases the 99 % quantile is the largest
    whole = (held / each).mean(axis=1).max()
    expected = [np.mean(np.array(naive(*pair)) / each) / whole for pair in zip(asked, shown, strict=True)]
    np.testing.assert_allclose(found.distance(asked, shown), expected, rtol=1e-4)


def test_it_is_scikit_learns_mahalanobis() -> None:
    _, looks = drawn(50, 6)
    centred = looks - looks.mean(axis=0)
    np.testing.assert_allclose(shrunk_covariance(centred), LedoitWolf().fit(looks).covariance_, rtol=1e-9)
    for units in (looks.std(axis=0), np.ones(3)):
        mean, root = spread(looks, units)
        far = np.linalg.norm((looks - mean) @ root, axis=1)
        scaled = centred / units
        np.testing.assert_allclose(far**2, LedoitWolf().fit(scaled).mahalanobis(scaled), rtol=1e-6)
    # More numbers than cases.
    wide = np.random.default_rng(2).normal(size=(9, 30)) * np.linspace(0.1, 3, 30)
    mean, root = spread(wide, np.ones(30))
    far = np.linalg.norm((wide[::-1] * 2 - mean) @ root, axis=1)
    np.testing.assert_allclose(far**2, LedoitWolf().fit(wide).mahalanobis(wide[::-1] * 2), rtol=1e-6)


def test_neither_the_order_nor_copies_of_all_say_anything_but_new_cases_do() -> None:
    embeddings, looks = drawn(40, 1)
    found, order = fitted(), np.random.default_rng(9).permutation(40)
    again = fit_familiarity(embeddings[order], looks[order], ["one"] * 40, drawn(25, 2))
    assert again is not None
    asked = drawn(12, 8)
    np.testing.assert_allclose(again.distance(*asked), found.distance(*asked), rtol=1e-5)
    doubled = spread(np.concatenate([looks, looks]), np.ones(3))
    np.testing.assert_allclose(doubled[0], spread(looks, np.ones(3))[0], rtol=1e-9)
    # A direction of its own is far, until the training holds it too.
    odd = -embeddings[:1], looks[:1]
    more = (
        np.concatenate([embeddings, np.repeat(odd[0], 20, axis=0)]),
        np.concatenate([looks, np.repeat(looks[:1], 20, axis=0)]),
    )
    known = fit_familiarity(*more, ["one"] * 60, drawn(25, 2))
    assert known is not None
    assert known.distance(*odd)[0] < 0.3 * found.distance(*odd)[0] and found.distance(*odd)[0] > 1.0


def test_the_limit_leaves_one_in_a_hundred_of_the_held_out_and_none_of_few() -> None:
    held = drawn(600, 2)
    found = fit_familiarity(*drawn(300, 1), ["one"] * 300, held)
    assert found is not None
    past = (found.distance(*held) > 1.0).sum()
    assert 1 <= past <= 6  # 1 % of 600
    few = drawn(20, 3)
    assert fit_familiarity(*drawn(300, 1), ["one"] * 300, few).distance(*few).max() == pytest.approx(1.0)  # type: ignore[union-attr]
    assert (found.distance(*drawn(50, 4, 30.0)) > 1.0).all()


def test_held_out_cases_alone_set_the_limit_and_are_not_described() -> None:
    base, other = fitted(), fit_familiarity(*drawn(40, 1), ["one"] * 40, drawn(25, 2, 5.0))
    assert other is not None
    for name in ("mean", "root", "look_mean", "look_root"):
        np.testing.assert_array_equal(getattr(base, name), getattr(other, name))
    assert (other.scales > base.scales).all()
    assert base.facts["described"] == 40 and base.facts["measured"] == 25 and "held out" in base.facts["from"]


def test_where_nobody_is_held_out_a_group_is_measured_by_the_others() -> None:
    """Each group lies in a direction of its own, which the others do not know."""
    groups = [f"g{place}" for place in range(12) for _ in range(20)]
    rng = np.random.default_rng(0)
    embeddings = np.repeat(np.eye(12, 30), 20, axis=0) + 0.01 * rng.normal(size=(240, 30))
    looks = np.zeros((240, 0))
    together = fit_familiarity(embeddings, looks, groups)
    divided = fit_familiarity(embeddings, looks, [str(place) for place in range(240)])
    assert together is not None and divided is not None
    assert "nobody was held out" in together.facts["from"] and together.facts["measured"] == 240
    assert together.scales[0] > 4 * divided.scales[0]
    fresh = np.eye(13, 30)[12:]
    assert together.distance(fresh, np.zeros((1, 0)))[0] < 1.5 < divided.distance(fresh, np.zeros((1, 0)))[0]


def test_too_few_are_not_described() -> None:
    assert fit_familiarity(*drawn(3, 1), ["a", "b", "c"], drawn(9, 2)) is None
    assert fit_familiarity(*drawn(9, 1), ["a"] * 9) is None
    assert fit_familiarity(*drawn(9, 1), ["a"] * 8 + ["b"]) is not None


def test_a_description_is_read_as_it_was_written_and_damage_is_one_line(tmp_path: Path) -> None:
    model = tmp_path / "net-2.5x.keras"
    assert read_familiarity(model, "abc") is None
    found = replace(fitted(), facts={**fitted().facts, "weights_sha256": "abc"})
    path = found.write(model)
    assert path == familiar_path(model) == tmp_path / "net-2.5x.familiar.npz"
    first = path.read_bytes()
    found.write(model)
    assert path.read_bytes() == first
    read = read_familiarity(model, "abc")
    assert read is not None and read.facts == found.facts
    np.testing.assert_array_equal(read.distance(*drawn(5, 8)), found.distance(*drawn(5, 8)))
    with pytest.raises(InputError, match="another model"):
        read_familiarity(model, "abd")
    for damage in (first[: len(first) // 2], b"no archive", first[:60] + bytes(40) + first[100:]):
        path.write_bytes(damage)
        with pytest.raises(InputError, match=r"familiar\.npz: cannot be read"):
            read_familiarity(model, "abc")
    for facts in ({"described": 40}, {**found.facts, "measured": "25"}, {**found.facts, "from": None}):
        replace(found, facts={**facts, "weights_sha256": "abc"}).write(model)
        with pytest.raises(InputError, match=r"cannot be read \(it does not say of how many examples it is"):
            read_familiarity(model, "abc")
    replace(found, scales=np.array([1.0, np.nan])).write(model)
    with pytest.raises(InputError, match="numbers that are none"):
        read_familiarity(model, "abc")


def test_what_is_no_number_is_not_familiar() -> None:
    found = fitted()
    asked = np.full((1, 7), np.nan), np.zeros((1, 3))
    assert not found.distance(*asked)[0] <= 1.0
    assert familiarity.LIMIT == 0.99
