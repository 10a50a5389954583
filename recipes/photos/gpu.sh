#!/bin/bash
# One stage of training the restorers on a GPU, in at most 540 seconds:
#
#   bash recipes/photos/gpu.sh noise|gaps|size|tints|scratches|noise_level DATA OUT [--seconds 540] [--toy]
#
# Each goes on from the shipped weights. DATA holds train.parquet (tints: color.parquet), as
# README.md makes them; rows of it will do where little can be carried. OUT gets the weights in
# float16, and log.json: `python recipes/gpu/stage.py join OUT FOLDER` puts them together again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
stage=$1 data=$2 out=$3
shift 3
export PYTHONPATH="$here/../../src${PYTHONPATH:+:$PYTHONPATH}"
case $stage in
  noise | gaps | size | scratches | noise_level) photos=train.parquet batch=64 ;;
  tints) photos=color.parquet batch=256 ;;
  *) echo "unknown stage $stage: noise, gaps, size, tints, scratches or noise_level" >&2; exit 2 ;;
esac
python3 "$here/../gpu/stage.py" "$out" "$@" --batch $batch -- \
  restorer "$data/$photos" --start "$stage" --config "$here/$stage.json"
