#!/bin/bash
#SBATCH --job-name=phaseloom
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=16
#SBATCH --time=02:00:00
# Four GPUs of one node at one reconstruction: sbatch one_node.sh run.yaml
set -eu
export OMP_NUM_THREADS=4
torchrun --standalone --nproc-per-node 4 -m phaseloom.cli reconstruct "$1" --out "runs/$SLURM_JOB_ID" --quiet
