#!/usr/bin/env bash
# Everything that wants a GPU, in one go of at most eight minutes: the tests marked gpu, the table of benchmarks/_gpu.py,
# and that of benchmarks/sequence.py. From the root of the repository, with an interpreter that has torch and pytest:
#
#   PYTHON=python3.12 bash benchmarks/gpu.sh > benchmarks/results/gpu.txt
#
# Without a GPU it runs on the CPU, to see that it does. What fails is said in the table; the rest goes on.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if ! "$python" -c 'from importlib.metadata import version; version("hbode")' 2>/dev/null; then
  # Without network nothing can be installed: the package is imported from here, under a version of its own.
  stub=$(mktemp -d)
  trap 'rm -rf "$stub"' EXIT
  mkdir "$stub/hbode-0+here.dist-info"
  printf 'Metadata-Version: 2.1\nName: hbode\nVersion: 0+here\n' > "$stub/hbode-0+here.dist-info/METADATA"
  PYTHONPATH="$PYTHONPATH:$stub"
fi
failed=0
timeout 150 "$python" -m pytest -q -p no:cacheprovider -m gpu tests -o addopts="--import-mode=importlib" 2>&1 | tail -n 25 || failed=1
echo
timeout 270 "$python" benchmarks/_gpu.py "$@" || failed=1
echo
device=$("$python" -c 'import torch; print("cuda" if torch.cuda.is_available() else "cpu")')
timeout 55 "$python" benchmarks/sequence.py --lengths 128,1024,4096 --repeats 3 --device "$device" || failed=1
exit "$failed"
