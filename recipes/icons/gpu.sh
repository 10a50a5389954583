#!/bin/bash
# One stage of training the bundled model on a GPU, in at most 540 seconds:
#
#   bash recipes/icons/gpu.sh model|upscaler|student DATA OUT [--seconds 540] [--toy]
#
# DATA holds augmented.parquet (upscaler: large.parquet), as README.md makes them. OUT gets the
# weights in float16, in files of at most 15 MB, and log.json:
# `python recipes/gpu/stage.py join OUT FOLDER` puts them together again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
stage=$1 data=$2 out=$3
shift 3
export PYTHONPATH="$here/../../src${PYTHONPATH:+:$PYTHONPATH}"
run() { python3 "$here/../gpu/stage.py" "$out" "${given[@]}" -- "$@"; }
given=("$@")
case $stage in
  model) # the U-Net goes on from the shipped weights, with a fresh optimizer
    given+=(--batch 1024)
    run diffusion "$data/augmented.parquet" --start icons --full --config "$here/gpu_model.json" ;;
  upscaler)
    given+=(--batch 128)
    run upscaler "$data/large.parquet" --model icons --config "$here/gpu_upscaler.json" ;;
  student) # of create --fast; it goes on from the shipped one
    given+=(--batch 256)
    run student "$data/augmented.parquet" --model icons \
      --start "$here/../../src/sfumato/pretrained/icons/fast" --config "$here/gpu_student.json" ;;
  *) echo "unknown stage $stage: model, upscaler or student" >&2; exit 2 ;;
esac
