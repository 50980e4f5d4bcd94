#!/usr/bin/env bash
# The environment of the peer of weighting_aucmedi.py (AUCMEDI 0.11 with TensorFlow 2.15), apart from this project's.
# Needs uv (https://docs.astral.sh/uv): pip looks for a set of versions for a quarter of an hour and longer.
# Usage: experiments/weighting_aucmedi.sh FOLDER; then give FOLDER/bin/python to weighting_aucmedi.py as --peer.
set -eu
folder=$1
uv venv --quiet --python 3.11 "$folder"
# classification-models-3D: newer ones need Keras 3, which AUCMEDI's losses do not know.
uv pip install --quiet --python "$folder/bin/python" \
  "aucmedi==0.11.0" "tensorflow-cpu==2.15.1" "classification-models-3D==1.0.10"
