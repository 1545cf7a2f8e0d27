"""Names of what is in a results folder; `output` writes it, `saved_run` reads it back."""

TRAJECTORY = "trajectory.zarr"
FINAL = "final.extxyz"
SUMMARY_CSV = "summary.csv"
SUMMARY_JSON = "summary.json"
RUN = "run.yaml"
LOG = "log.csv"
CHECKSUMS = "SHA256SUMS"
"""Of what was written when the run ended; ``sha256sum -c SHA256SUMS`` in the folder looks at them as well."""
PLOT = "plot.png"
ANALYSIS = "analysis.png"
CHECKPOINTS = "checkpoints"
"""Of a run that goes on, or can be resumed; what it has finished holds is in the other files."""
RESERVE = ".reserve"
"""Only while a run goes on, or was killed."""
CONTENT = frozenset({
    TRAJECTORY, FINAL, SUMMARY_CSV, SUMMARY_JSON, RUN, LOG, CHECKSUMS, CHECKPOINTS, PLOT, ANALYSIS, RESERVE,
})  # fmt: skip
NOT_STARTED = "not started"
"""Why a system has no result whose turn has not come."""
