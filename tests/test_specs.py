"""Data sets' descriptions: read once, and everybody's own."""

import pytest

from melano_tf.specs import load_spec


def test_what_one_changes_in_a_description_is_not_anothers() -> None:
    load_spec("isic2018")["labels"].clear()
    assert len(load_spec("isic2018")["labels"]) == 7


def test_a_description_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_spec("spitzoid")
    monkeypatch.setattr("yaml.safe_load", lambda file: pytest.fail("parsed again"))
    assert load_spec("spitzoid") == first
