#!/bin/sh
# The whole check of a GPU in one command: correctness against the CPU, throughput, memory by component.
#
#     bash benchmarks/gpu.sh DATA.json            # on a machine with torch, transformers, peft and accelerate
#     bash benchmarks/gpu.sh DATA.json --small    # small models, a few steps; on a CPU where there is no GPU
#
# Run from the top of the repository. Weights are random; DATA.json, in SQuAD's format, gives the lengths.
set -eu
exec "${PYTHON:-python}" -m benchmarks.gpu "$@"
