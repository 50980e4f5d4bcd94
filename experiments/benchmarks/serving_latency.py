"""How fast an exported model answers: images/s and latency at 1, 4 and 16 clients, and seconds from slide to answer.

    python experiments/benchmarks/serving_latency.py --model runs/zoome/models/zoome.keras --images folder
    python experiments/benchmarks/serving_latency.py --model runs/spitzoid/models/target.keras --slide slide.svs
    python experiments/benchmarks/serving_latency.py --server http://127.0.0.1:8501 --name zoome --images folder

Without --server the model is exported to a temporary folder and its signature of encoded images is called from as many
threads as there are clients, in this process: decoding, network and decision, without the network in between. With
--server every client is a thread that sends requests to it, and the server's own time and the transport count too.
Each request holds one image. A slide is cut, judged and drawn as `predict` does it, in a process of its own, whose peak
memory is read when it ends.

Measured on two cores that many other processes shared (load 12 to 13), one thread, TensorFlow 2.21. A ZooME stand-in of
32 px on HAM10000 photographs of 200 x 150 px: 64 images/s, p50 16 ms, p99 28 ms for one client; 66/s, 59, 85 ms for
four; 73/s, 212, 282 ms for sixteen; peak 1,004 MiB. CMU-1-Small-Region.svs, a spitzoid stand-in of 48 px: 88 s on the
clock (9 s of processor time, TensorFlow's start included), peak 1,042 MiB. Nothing was measured on a machine at rest.
"""

import argparse
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from melano_tf.environment import cores
from melano_tf.metadata_fields import NOT_SENT, UNKNOWN, NumberField
from melano_tf.models.metadata_layer import MetadataCode

SUFFIXES = (".jpg", ".jpeg", ".png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a .keras file, exported for the measurement")
    parser.add_argument("--server", help="http://host:8501 or grpc://host:8500; then --name")
    parser.add_argument("--name", default="model", help="of the model on the server")
    parser.add_argument("--images", type=Path, help="folder of images")
    parser.add_argument("--slide", type=Path, help="a slide, for a spitzoid model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=200, help="in all, of each number of clients")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow; 0: one a core")
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {cores()} cores, load {os.getloadavg()[0]:.1f}")
    if arguments.slide is not None:
        measure_slide(arguments.model, arguments.slide, arguments.threads)
    if arguments.images is not None:
        measure_images(arguments)


def measure_slide(model: Path, slide: Path, threads: int) -> None:
    """Seconds and peak memory of `predict` on a slide, in a process of its own; start-up of TensorFlow counts."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "melano_tf.run", "predict", "--model", str(model), "--input", str(slide)]
        started = time.monotonic()
        done = subprocess.run(
            [*command, "--out", out, "--threads", str(threads)], capture_output=True, text=True, check=True
        )
        seconds = time.monotonic() - started
    used, found = resource.getrusage(resource.RUSAGE_CHILDREN), done.stdout.splitlines()[1].strip()
    print(f"slide to answer: {seconds:.1f} s on the clock, {used.ru_utime + used.ru_stime:.1f} s of processor time,")
    print(f"peak {used.ru_maxrss / 1024:.0f} MiB ({slide.name}: {found})")


def measure_images(arguments: argparse.Namespace) -> None:
    """Images/s, p50 and p99 at each number of clients."""
    files = sorted(path for path in arguments.images.iterdir() if path.suffix.lower() in SUFFIXES)[:100]
    contents = [path.read_bytes() for path in files]
    with tempfile.TemporaryDirectory() as folder:
        client = open_client(arguments, Path(folder))
        written = client.card()["sidecar"]["preprocessing"].get("metadata")
        fields = MetadataCode.from_json(written).fields if written else ()
        extra = {
            one.name: np.array([NOT_SENT], np.float32) if isinstance(one, NumberField) else [UNKNOWN] for one in fields
        }
        print(f"{len(files)} images of {np.mean([len(c) for c in contents]) / 1024:.0f} KiB on average, one a request")
        client.ask("serving_default", {"image_bytes": [contents[0]], **extra})  # the first one waits for TensorFlow
        print("clients  images/s  p50 ms  p99 ms")
        for clients in arguments.clients:
            seconds, times = run_clients(client, contents, extra, clients, arguments.requests)
            p50, p99 = np.percentile(np.array(times) * 1e3, [50, 99])
            print(f"{clients:7d}  {len(times) / seconds:8.1f}  {p50:6.1f}  {p99:6.1f}")
    print(f"peak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def open_client(arguments: argparse.Namespace, folder: Path) -> Any:
    """A client to the server, or to a fresh export in this process."""
    from melano_tf.serving.client import Client, FolderTransport, find_transport
    from melano_tf.training.tensorflow_runtime import configure

    if arguments.server is not None:
        return Client(find_transport(arguments.server, arguments.name))
    from melano_tf.serving.export import export_model
    from melano_tf.serving.model_finding import file_card

    configure(arguments.threads)
    return Client(FolderTransport(export_model(file_card(arguments.model), folder).folder))


def run_clients(client: Any, contents: list[bytes], extra: dict[str, Any], clients: int, requests: int) -> Any:
    """Wall-clock seconds of all requests, and the seconds of each."""
    times: list[float] = []
    queue = iter(list(islice(cycle(contents), requests)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                content = next(queue, None)
            if content is None:
                return
            started = time.perf_counter()
            client.transport.call("serving_default", {"image_bytes": [content], **extra}, 600.0)
            seconds = time.perf_counter() - started
            with lock:
                times.append(seconds)

    threads = [threading.Thread(target=work) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started, times


if __name__ == "__main__":
    main()
