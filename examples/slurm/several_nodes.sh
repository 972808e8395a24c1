#!/bin/bash
#SBATCH --job-name=phaseloom
#SBATCH --nodes=2
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=08:00:00
#SBATCH --signal=B:INT@120
# Two nodes with four GPUs each; the data and the folder of the run lie on a file system that all nodes see.
# Submitted again with the folder that it left, it goes on: sbatch several_nodes.sh run.yaml [FOLDER]
set -eu
export OMP_NUM_THREADS=4
host=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
folder=${2:-runs/$SLURM_JOB_ID}
words=(reconstruct "$1" --out "$folder" --quiet)
[ -f "$folder/snapshot.h5" ] && words=(reconstruct "$folder" --resume --quiet)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 4 --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" \
  --rdzv-endpoint "$host:29500" -m phaseloom.cli "${words[@]}"
