#!/usr/bin/env bash
# The whole suite on other versions of Python, each in an environment of its own that uv makes: experiments/everywhere.sh
# FOLDER [VERSION…]. Environments and logs lie in FOLDER; the last line of each says what passed. Needs uv, and Python's
# versions where uv finds them or may fetch them. THREADS=2 gives each process of tests that many threads (else 1).
set -euo pipefail
folder=${1:?give a folder for environments and logs}
shift
cd "$(dirname "$0")/.."
for version in "${@:-3.11 3.12 3.13}"; do
  for one in $version; do
    uv venv --quiet --clear --python "$one" "$folder/python-$one"
    uv pip install --quiet --python "$folder/python-$one/bin/python" ".[test]"
    OMP_NUM_THREADS=${THREADS:-1} TF_NUM_INTRAOP_THREADS=${THREADS:-1} \
      "$folder/python-$one/bin/python" -m pytest -q > "$folder/python-$one.log" 2>&1 || true
    echo "$("$folder/python-$one/bin/python" --version): $(tail -n 1 "$folder/python-$one.log")"
  done
done
