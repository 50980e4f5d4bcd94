"""The import of TensorFlow, which talks."""

import os

import pytest

from melano_tf.training import tensorflow_runtime


@pytest.mark.parametrize(
    "error, shown", [(ImportError("no such library"), "chatter of a library"), (KeyboardInterrupt(), "")]
)
def test_what_libraries_say_while_they_are_loaded_is_shown_where_they_cannot_be(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException, shown: str
) -> None:
    def load(name: str) -> None:
        os.write(2, b"chatter of a library")
        raise error

    monkeypatch.setattr(tensorflow_runtime.importlib, "import_module", load)
    with pytest.raises(type(error)):
        tensorflow_runtime.import_quietly()
    assert capfd.readouterr().err == shown
