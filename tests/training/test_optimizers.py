import keras
import numpy as np
import pytest

from melano_tf.errors import InputError
from melano_tf.training.optimizers import cosine_schedule, make_optimizer


def test_sgd_follows_the_schedule_step_by_step() -> None:
    variable = keras.Variable(np.zeros(2, np.float32))
    optimizer = make_optimizer("sgd", keras.optimizers.schedules.PiecewiseConstantDecay([1, 2], [1.0, 0.1, 0.01]))
    moves = []
    for _ in range(4):
        before = variable.numpy()
        optimizer.apply([np.ones(2, np.float32)], [variable])
        moves.append(float((before - variable.numpy())[0]))
    np.testing.assert_allclose(moves, [1.0, 1.0, 0.1, 0.01], rtol=1e-5)


def test_momentum_and_clipping_reach_the_optimizer() -> None:
    variable = keras.Variable(np.zeros(2, np.float32))
    optimizer = make_optimizer("sgd", 1.0, momentum=0.5, clipnorm=1.0)
    for _ in range(2):
        optimizer.apply([np.array([3.0, 4.0], np.float32)], [variable])
    # Clipped to (0.6, 0.8); the second step adds half of the first: 1 + 1.5 steps.
    np.testing.assert_allclose(variable.numpy(), [-1.5, -2.0], rtol=1e-6)


def test_nesterovs_momentum_looks_ahead() -> None:
    """By hand, of a gradient of 1 each time: velocities 1, 1.5, 1.75; a step is half of that and the gradient."""
    moved = {}
    for nesterov in (False, True):
        variable = keras.Variable(np.zeros(1, np.float32))
        optimizer = make_optimizer("sgd", 1.0, momentum=0.5, nesterov=nesterov)
        for _ in range(3):
            optimizer.apply([np.ones(1, np.float32)], [variable])
        moved[nesterov] = float(np.asarray(variable)[0])
    assert moved == {False: pytest.approx(-4.25), True: pytest.approx(-5.125)}


def test_adams_epsilon_is_a_setting() -> None:
    """Of a gradient of 1e-8 it takes nearly all of the step; PyTorch's leaves several times as much as Keras's."""
    moved = {}
    for epsilon in (1e-7, 1e-8):
        variable = keras.Variable(np.zeros(1, np.float32))
        optimizer = make_optimizer("adam", 1.0, epsilon=epsilon)
        optimizer.apply([np.array([1e-8], np.float32)], [variable])
        # Keras's step without bias correction of the root: lr sqrt(1 - b2) / (1 - b1) m / (sqrt(v) + epsilon)
        root = np.sqrt(1e-3) * 1e-8
        assert float(np.asarray(variable)[0]) == pytest.approx(-np.sqrt(1e-3) * 1e-8 / (root + epsilon), rel=1e-3)
        moved[epsilon] = float(np.asarray(variable)[0])
    assert moved[1e-8] < 5 * moved[1e-7] < 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rmsprop", 0.1), "optimizer: 'rmsprop' is unknown; choose sgd or adam"),
        (("sgd", 0.0), "learning_rate: 0.0 is not a positive number"),
        (("sgd", float("nan")), "learning_rate: nan is not a positive number"),
        (("sgd", float("inf")), "learning_rate: inf is not a positive number"),
        (("sgd", 0.1, 1.0), "momentum: 1.0 is not in 0..1 (1 excluded)"),
        (("sgd", 0.1, -0.5), "momentum: -0.5 is not in 0..1 (1 excluded)"),
        (("sgd", 0.1, 0.0, True), "nesterov: needs a momentum above 0"),
        (("adam", 0.1, 0.9), "momentum: belongs to sgd; adam has its own (beta 0.9)"),
        (("adam", 0.1, 0.0, False, 0.0), "clipnorm: 0.0 is not a positive number"),
        (("adam", 0.1, 0.0, False, None, 0.0), "epsilon: 0.0 is not a positive number"),
        (("adam", 0.1, 0.0, False, None, 1e-7, 1.0), "averaging: 1.0 is not in 0..1 (1 excluded)"),
        (("adam", 0.1, 0.0, False, None, 1e-7, -0.1), "averaging: -0.1 is not in 0..1 (1 excluded)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple, words: str) -> None:
    with pytest.raises(InputError) as refused:
        make_optimizer(*arguments)
    assert str(refused.value) == words


def test_the_cosine_falls_from_the_rate_to_nothing() -> None:
    rate = cosine_schedule(0.4, 100)
    np.testing.assert_allclose([float(rate(step)) for step in (0, 25, 50, 100)], [0.4, 0.3414214, 0.2, 0.0], rtol=1e-5)
    with pytest.raises(InputError, match=r"^total_steps: 0 is not a positive number$"):
        cosine_schedule(0.4, 0)
