"""What `doctor --run` says of decoded images and features that several runs share."""

import json
from pathlib import Path

import numpy as np

from melano_tf.commands.doctor import _shards
from melano_tf.pipelines.npy_rows import write_shard


def test_what_an_earlier_version_left_in_a_shared_folder_is_no_fault(tmp_path: Path) -> None:
    run, cache, said = tmp_path / "run", tmp_path / "cache", list[str]()
    (cache / "features").mkdir(parents=True)
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"settings": {"cache": str(cache)}}))
    paths = [cache / f"{digit * 16}.npy" for digit in "abc"] + [cache / "features" / f"{'d' * 16}.npy"]
    for path in paths:
        write_shard(path, np.arange(12, dtype=np.uint8).reshape(3, 4), {"aspects": [1.0] * 3, "unreadable": {}})
    assert _shards(run, said.append) == []
    for path in paths[:2]:  # of another run: nothing of this one makes it anew
        path.with_suffix(".json").write_text(json.dumps({"aspects": [1.0] * 3, "unreadable": {}}))
    assert _shards(run, said.append) == []
    told = json.loads(paths[2].with_suffix(".json").read_text())
    paths[2].with_suffix(".json").write_text(json.dumps({**told, "aspects": [2.0] * 3}))
    [fault] = _shards(run, said.append)
    assert fault.startswith(f"{paths[2]}: is missing, or it or its .json is not as it was written")
    compared = "files of decoded images read and compared"
    assert [line.removeprefix(f"{run}: ") for line in said] == [
        f"4 {compared}; 0 not as written",
        f"2 {compared}; 0 not as written; 2 of an earlier version have no checksums",
        f"2 {compared}; 1 not as written; 2 of an earlier version have no checksums",
    ]
