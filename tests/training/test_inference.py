"""A trained model over many batches: in order, in inference mode, whatever it computes in and however much it gives."""

from typing import Any

import keras
import numpy as np

from melano_tf.training.inference import predict


def network(dtype: str = "float32") -> keras.Model:
    """(n, 3) -> the sum of a row and twice it, behind a dropout that would be seen."""
    inputs = keras.Input((3,))
    x = keras.layers.Dropout(0.9, dtype=dtype)(inputs)
    one = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", dtype=dtype)(x)
    return keras.Model(inputs, {"sum": one, "twice": 2 * one})


def test_batches_of_any_size_come_back_in_their_order_in_single_precision() -> None:
    rows = np.arange(21, dtype=np.float32).reshape(7, 3)
    batches: list[dict[str, Any]] = [{"x": rows[:4]}, {"x": rows[4:5]}, {"x": rows[5:]}]
    for dtype in ("float32", "bfloat16"):
        found = predict(network(dtype), batches)
        assert {name: (values.dtype, values.shape) for name, values in found.items()} == {
            name: (np.dtype("float32"), (7, 1)) for name in ("sum", "twice")
        }
        np.testing.assert_array_equal(found["sum"][:, 0], rows.sum(axis=1))
        np.testing.assert_array_equal(found["twice"], 2 * found["sum"])


def test_of_none_nothing_comes_back_and_a_traced_pass_is_asked_as_it_is() -> None:
    nothing = predict(network(), [])
    assert nothing.shape == (0,) and nothing.dtype == np.float32
    found = predict(lambda x: x[:, :2] + 0.5, [{"x": np.zeros((2, 3))}, {"x": np.ones((1, 3))}])
    np.testing.assert_array_equal(found, [[0.5, 0.5], [0.5, 0.5], [1.5, 1.5]])
    assert found.dtype == np.float32
