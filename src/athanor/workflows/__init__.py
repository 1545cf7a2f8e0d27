"""Named recipes: relax, molecular dynamics, and jobs of several stages. The command line calls nothing else."""
