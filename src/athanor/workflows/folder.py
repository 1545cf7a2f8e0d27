"""Names of what is in a results folder; `output` writes it, `saved_run` reads it back."""

TRAJECTORY = "trajectory.zarr"
FINAL = "final.extxyz"
SUMMARY_CSV = "summary.csv"
SUMMARY_JSON = "summary.json"
RUN = "run.yaml"
LOG = "log.csv"
PLOT = "plot.png"
RESERVE = ".reserve"
"""Only while a run goes on, or was killed."""
CONTENT = frozenset({TRAJECTORY, FINAL, SUMMARY_CSV, SUMMARY_JSON, RUN, LOG, PLOT, RESERVE})
NOT_STARTED = "not started"
"""Why a system has no result whose turn has not come."""
