"""What all recipes look at before the first second: initial weights, and folders of the user's."""

from pathlib import Path

import pytest

from melano_tf.errors import InputError
from melano_tf.papers.checks import check_weights, weights_key


def test_the_key_of_weights_is_their_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one.weights.h5", tmp_path / "other.weights.h5"
    one.write_bytes(b"first")
    other.write_bytes(b"first")
    before = weights_key("standin", str(one))
    assert before == weights_key("resnext_standin", str(other)) and before is not None
    one.write_bytes(b"second")
    assert weights_key("standin", str(one)) != before
    assert check_weights([("standin", "none"), ("standin", str(other)), ("standin", str(other))]) == (before,)
    with pytest.raises(InputError, match="no such weights file"):
        weights_key("resnext_standin", str(tmp_path / "gone.h5"))
    with pytest.raises(InputError, match="vgg61"):
        weights_key("vgg61", "none")
