#!/usr/bin/env bash
# One run of many nodes under SLURM: `sbatch examples/slurm.sh 'rows/*.parquet' price`.
# JAX finds coordinator and processes by itself. The folder of checkpoints and the rows are on a shared disk.
#SBATCH --job-name=jaxreg
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@60
#SBATCH --requeue
set -euo pipefail
rows=${1:?a pattern of Parquet files} target=${2:?the column to predict}
folder=${JAXREG_FOLDER:-$PWD/run}
mkdir -p "$folder/checkpoints"

# A job that was requeued goes on from its checkpoints; where there is none the run begins at its start.
srun jaxreg fit "$rows" --target "$target" --out "$folder/model" --distributed \
    --checkpoint "$folder/checkpoints" --resume
