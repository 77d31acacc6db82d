#!/usr/bin/env bash
# When every task of the array has ended well: one store, and its report. Started by submit.sh; needs no GPU.
#SBATCH --job-name=ssd-merge
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=2
#SBATCH --mem=16G
#SBATCH --time=01:00:00
#SBATCH --output=%x-%j.log
set -euo pipefail

: "${OUT:?the folder of the whole run}"
"${SSD:-ssd}" merge "$OUT" "$OUT"/shard-*
"${SSD:-ssd}" report "$OUT"
