# %% [markdown]
# # One training step of VGG16 beside PyTorch's, in float32 and bfloat16
#
# Batch 16 at 224 px, Adam, all layers trained: this project's gradient step on `keras.applications`' VGG16 with one
# dense layer, and the same network in PyTorch, channels last, bfloat16 by autocast. Steps of both alternate, in
# processes that wait for each other, so that a busy machine slows both; the ratio is that of the medians.
#
# Run: `experiments/benchmarks/peers.sh peers` once, then
# `python experiments/benchmarks/step.py --peer peers/bin/python`
# %%
import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from melano_tf.environment import cores
from melano_tf.models.classifier_head import logits_of
from melano_tf.models.seanet import build_source
from melano_tf.training.optimizers import make_optimizer
from melano_tf.training.pace import any_loss, made_up, timed
from melano_tf.training.steps import GradientStep
from melano_tf.training.tensorflow_runtime import computing_in, configure

PX = 224
WANTED = {"float32": 1.2, "bfloat16": 1.0}


# %%
def own_step(precision: str, batch: int) -> Callable[[], float]:
    """A function that does a step and gives its seconds."""
    keras.utils.set_random_seed(0)
    with computing_in(precision):
        model = logits_of(build_source("vgg16", PX, seanet=False, head="gap", weights="none", seed=0))
        step = GradientStep(model, make_optimizer("adam", 1e-4), any_loss)
    pictures = made_up(model, batch, bag=False)
    return lambda: timed(step, pictures)


class Peer:
    """PyTorch in its own environment: one line in, one step, its seconds as a line out."""

    def __init__(self, python: Path, precision: str, batch: int, threads: int) -> None:
        script = Path(__file__).with_name("step_torch.py")
        command = [str(python), str(script), precision, str(PX), str(batch), str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)

    def __call__(self) -> float:
        """Seconds of one step."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("step\n")
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# %%
def compare(precision: str, options: argparse.Namespace) -> dict[str, object]:
    """A row of the table: images/s of both."""
    own, seconds = own_step(precision, options.batch), dict[str, list[float]](own=[], peer=[])
    peer = Peer(options.peer, precision, options.batch, options.threads) if options.peer else None
    own()  # traces the graph
    if peer is not None:
        peer()
    for _ in range(options.steps):
        seconds["own"].append(own())
        if peer is not None:
            seconds["peer"].append(peer())
    if peer is not None:
        peer.close()
    rates = {name: options.batch / statistics.median(each) for name, each in seconds.items() if each}
    return {
        "work": f"training step, VGG16, {PX} px, batch {options.batch}, {precision}",
        "unit": "images/s",
        "own": rates["own"],
        "peer": rates.get("peer"),
        "beside": "torch, channels last",
        "wanted": WANTED[precision],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A training step of VGG16 beside PyTorch's.")
    parser.add_argument("--peer", type=Path, help="python of the environment that peers.sh made; without it no peer")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", action="store_true", help="rows for run.py, a line each; it prints no other")
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    given = parser.parse_args()
    configure(given.threads)
    for each in given.precision:
        sys.stdout.write(json.dumps(compare(each, given)) + "\n")
        sys.stdout.flush()
