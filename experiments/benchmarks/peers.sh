#!/usr/bin/env bash
# The environment of what benchmarks compare with (PyTorch for the CPU, albumentations), apart from this project's.
# Usage: experiments/benchmarks/peers.sh FOLDER; then give FOLDER/bin/python to a benchmark as --peer.
set -eu
folder=$1
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --upgrade pip
"$folder/bin/pip" install --quiet --index-url https://download.pytorch.org/whl/cpu "torch>=2.5,<3"
"$folder/bin/pip" install --quiet "albumentations>=2,<3" opencv-python-headless numpy
