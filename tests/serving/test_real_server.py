"""The exported models on a real `tensorflow_model_server`, where there is one on the PATH."""

import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest

from melano_tf.serving.client import Client, ClientSettings, FolderTransport, find_transport
from tests.serving.conftest import Models
from tests.serving.pictures import FILES, bad_files

SERVER = shutil.which("tensorflow_model_server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.skipif(SERVER is None, reason="needs tensorflow_model_server on the PATH")
@pytest.mark.parametrize("way", ["http", "grpc"])
def test_a_real_server_gives_the_same_answers(way: str, models: Models, tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    config.write_text((models.serving / "models.config").read_text().replace('"/models/', f'"{models.serving}/'))
    ports = {"http": free_port(), "grpc": free_port()}
    command = [str(SERVER), f"--port={ports['grpc']}", f"--rest_api_port={ports['http']}"]
    server = subprocess.Popen([*command, f"--model_config_file={config}"], stdout=subprocess.DEVNULL)
    try:
        far = Client(find_transport(f"{way}://127.0.0.1:{ports[way]}", "seven"), ClientSettings(retries=7))
        assert far.card()["name"] == "seven"
        contents = [FILES["photo.jpg"](), bad_files()["cut.jpg"][0], FILES["rgb.png"]()]
        near = Client(FolderTransport(models.exports["seven"].folder)).ask_each(
            "serving_default", {"image_bytes": contents}
        )
        found = far.ask_each("serving_default", {"image_bytes": contents})
        assert found[1] == near[1] == "is cut off: its end marker is missing"
        for k in (0, 2):
            mine, theirs = near[k], found[k]
            assert isinstance(mine, dict) and isinstance(theirs, dict)
            np.testing.assert_allclose(theirs["probabilities"], mine["probabilities"], atol=1e-5)
    finally:
        server.terminate()
        server.wait(20)
