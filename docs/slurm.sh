#!/usr/bin/env bash
# A run on several machines, by Slurm, from the repository's root: sbatch docs/slurm.sh --config my.yaml engine=zero
#
# output_dir, models and seeds must be where all machines see them. When the time is nearly up, Slurm stops the run,
# which saves its last finished step; the same command continues it.
#SBATCH --job-name=advgame
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
set -euo pipefail

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun \
    --nnodes="$SLURM_NNODES" --nproc-per-node="$SLURM_GPUS_ON_NODE" --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID" \
    --rdzv-endpoint="$first:$((20000 + SLURM_JOB_ID % 10000))" --shutdown-timeout=150 \
    trainer/main.py "$@"
