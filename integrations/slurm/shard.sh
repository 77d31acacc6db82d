#!/usr/bin/env bash
# One task of the array: its part of the run, on its own GPU. Started by submit.sh, with the options of ssd run.
#SBATCH --job-name=ssd-shard
#SBATCH --ntasks=1
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
set -euo pipefail

: "${OUT:?the folder of the whole run}"
"${SSD:-ssd}" run "$@" --out "$OUT" --shard slurm # a task that is requeued goes on where it was stopped
