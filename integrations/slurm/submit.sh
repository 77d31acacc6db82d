#!/usr/bin/env bash
# Cut a run into an array of SHARDS tasks, and merge it when all of them have ended well. Arguments are those of ssd run;
# --batch must be among them. See README.md.
#   OUT=runs/prefills SHARDS=8 integrations/slurm/submit.sh --preset paper-prefills --pair llama2 --draft DRAFT --data ./datasets --batch 16
set -euo pipefail

: "${OUT:?the folder of the whole run, which all nodes can reach: OUT=runs/NAME}"
: "${SHARDS:?how many parts: SHARDS=8}"
[[ $SHARDS =~ ^[1-9][0-9]*$ && $SHARDS -ge 2 ]] || { echo "SHARDS=$SHARDS: give the number of parts, 2 or more" >&2; exit 1; }
export OUT
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

array=$(sbatch --parsable --array="1-$SHARDS" "$here/shard.sh" "$@")
array=${array%%;*} # of several clusters: number;cluster
merge=$(sbatch --parsable --dependency="afterok:$array" --kill-on-invalid-dep=yes "$here/merge.sh")
echo "$SHARDS tasks: job $array; then the merge: job ${merge%%;*}; the report: $OUT/report.md"
