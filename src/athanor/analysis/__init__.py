"""What a trajectory says: means with errors, structure, motion, differences. Plain arrays in, plain arrays out."""

from athanor.analysis.differences import (
    Configuration,
    displacements,
    element_shifts,
    order_of_atoms,
    principal_strains,
)
from athanor.analysis.diffusion import Diffusion, einstein_diffusion, green_kubo_diffusion
from athanor.analysis.motion import (
    MeanSquareDisplacement,
    Motion,
    VelocityAutocorrelation,
    mean_square_displacement,
    motion_of,
    velocity_autocorrelation,
)
from athanor.analysis.radial import RadialDistribution, radial_distribution
from athanor.analysis.statistics import Average, averages, equilibration, statistical_inefficiency

__all__ = [
    "Average",
    "averages",
    "equilibration",
    "statistical_inefficiency",
    "RadialDistribution",
    "radial_distribution",
    "Motion",
    "motion_of",
    "MeanSquareDisplacement",
    "mean_square_displacement",
    "VelocityAutocorrelation",
    "velocity_autocorrelation",
    "Diffusion",
    "einstein_diffusion",
    "green_kubo_diffusion",
    "Configuration",
    "displacements",
    "principal_strains",
    "order_of_atoms",
    "element_shifts",
]
