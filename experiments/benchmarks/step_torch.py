# The peer of step.py, in an environment of its own (peers.sh): VGG16 with one dense layer on its last map's mean, as
# `keras.applications` has it, in PyTorch, channels last. Does a step a line of its input and prints its seconds.
import contextlib
import sys
import time

import torch

LAYERS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)  # 0: pooling


def vgg16(classes: int) -> torch.nn.Module:
    """Convolutions of 3 x 3 with ReLU, and the mean over places."""
    layers: list[torch.nn.Module] = []
    channels = 3
    for width in LAYERS:
        if width:
            layers += [torch.nn.Conv2d(channels, width, 3, padding=1), torch.nn.ReLU(inplace=True)]
            channels = width
        else:
            layers.append(torch.nn.MaxPool2d(2))
    pooled = [torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(512, classes)]
    return torch.nn.Sequential(*layers, *pooled)


def main() -> None:
    precision, px, batch, threads = sys.argv[1], *map(int, sys.argv[2:5])
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    model = vgg16(2).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    x = torch.rand(batch, 3, px, px).to(memory_format=torch.channels_last)
    half = precision == "bfloat16"
    for _ in sys.stdin:
        started = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            logits = model(x)
        loss = (logits.float() ** 2).mean()
        loss.backward()
        optimizer.step()
        loss.item()
        sys.stdout.write(f"{time.perf_counter() - started}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
