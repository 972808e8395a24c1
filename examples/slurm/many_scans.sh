#!/bin/bash
#SBATCH --job-name=phaseloom-scans
#SBATCH --array=0-99%20
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --time=01:00:00
# One scan per task, twenty at a time; what is done already is left alone: sbatch many_scans.sh scans/*.h5
set -eu
export OMP_NUM_THREADS=4
files=("$@")
file=${files[$SLURM_ARRAY_TASK_ID]:-}
[ -n "$file" ] || exit 0
out=runs/$(basename "$file" .h5)
[ -f "$out/result.h5" ] && exit 0
words=(reconstruct "$file" --out "$out" --quiet)
[ -f "$out/snapshot.h5" ] && words=(reconstruct "$out" --resume --quiet)
phaseloom "${words[@]}"
