#!/bin/bash
# A labelling on Slurm: sbatch slurm.sh. Change the lines below and the command at the end.
#
# A Ray of this job alone: its nodes find each other by a secret that no other job has. A job that is
# requeued, or submitted again after it ran out of time, resumes from the folder.
#SBATCH --job-name=icm-fast-label
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

VENV=${VENV:-$HOME/icm-fast}      # environment with icm-fast[ray], on a disk that all nodes see
WORK=${WORK:-$PWD}                # table and results, on a disk that the first node sees
MODEL=${MODEL:-/models/Llama-3.1-8B}
PORT=${PORT:-6379}

# shellcheck source=/dev/null
source "$VENV/bin/activate"
export RAY_USAGE_STATS_ENABLED=0 RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${NODES[0]}
GPUS=${SLURM_GPUS_ON_NODE:-8}

srun --nodes=1 --ntasks=1 --nodelist="$HEAD" \
  ray start --head --port="$PORT" --num-gpus="$GPUS" --include-dashboard=false --block &
sleep 20
for NODE in "${NODES[@]:1}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$NODE" \
    ray start --address="$HEAD:$PORT" --num-gpus="$GPUS" --block &
done
sleep 20

# The driver runs where this script does, on the first node.
icm-fast label "$WORK/table.parquet" --text text --labels negative,positive --model "$MODEL" \
  --folder "$WORK/run" -o "$WORK/labelled.parquet" --ray "$HEAD:$PORT" --progress plain
