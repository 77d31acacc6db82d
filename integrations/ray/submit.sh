#!/usr/bin/env bash
# Submit a run to a Ray cluster: the driver runs on the head node, one actor with its own pair on every GPU. Arguments are those
# of ssd run; OUT is a path on the head node. See README.md.
#   OUT=/shared/runs/prefills integrations/ray/submit.sh --preset paper-prefills --pair llama2 --draft DRAFT --data ./datasets --batch 16
set -euo pipefail

: "${OUT:?the folder of the run, on the head node: OUT=/shared/runs/NAME}"
address=${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}

exec ray job submit --address "$address" --submission-id "${JOB:-ssd-$(date +%s)}" -- \
  "${SSD:-ssd}" run "$@" --out "$OUT" --workers ray --gpus-per-worker "${GPUS_PER_WORKER:-1}"
