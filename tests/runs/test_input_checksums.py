"""Checksums of what a run reads."""

import errno
import os
from pathlib import Path

import pytest

from melano_tf.errors import InputError
from melano_tf.runs import input_checksums
from melano_tf.runs.atomic_files import file_sha256, read_json
from melano_tf.runs.input_checksums import file_checksums


def test_a_file_that_a_bad_disk_does_not_give_is_one_line_and_the_others_are_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = tmp_path / "a.tif", tmp_path / "b.tif"
    for file, content in ((good, b"whole"), (bad, b"scratched")):
        file.write_bytes(content)

    def read(path: Path) -> str:
        if path == bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return file_sha256(path)

    monkeypatch.setattr(input_checksums, "file_sha256", read)
    with pytest.raises(InputError, match=r"b\.tif: Input/output error while it was read .* once the file can be read"):
        file_checksums(tmp_path, [good, bad])
    assert list(read_json(tmp_path / "inputs.json")) == [str(good)]
    monkeypatch.undo()
    assert file_checksums(tmp_path, [good, bad]) == {str(good): file_sha256(good), str(bad): file_sha256(bad)}
