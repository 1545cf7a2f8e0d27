#!/bin/bash
# Relax any number of structures in pieces of four hours: submitted once, it goes on until all are done.
#
#   sbatch examples/slurm/screen.sh structures.extxyz screened
#
#SBATCH --job-name=screen
#SBATCH --time=04:00:00
#SBATCH --cpus-per-task=8
#SBATCH --signal=USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

structures=$1 results=$2

# With --resume the same command starts the run and goes on with it. Two minutes before the time is over athanor gets
# SIGUSR1: it finishes its step, writes a checkpoint and ends with 75. After a crash or a reboot of the node Slurm puts
# the job back into the queue itself, and the run goes on from its newest checkpoint.
srun athanor relax "$structures" -o "$results" --resume --quiet --threads "${SLURM_CPUS_PER_TASK:-1}" \
    --status "$results.status.jsonl"
code=$?

if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
