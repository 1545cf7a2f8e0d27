"""Reporting: scalars of a run on a screen, in a file or on a board; one hook hands each event to all reporters."""

from __future__ import annotations

from athanor.hooks.reporting.csv_reporter import CSVReporter
from athanor.hooks.reporting.layout import BaseRichLayout, DynamicsRichLayout, RichLayout, TrainingRichLayout
from athanor.hooks.reporting.orchestrator import ReportingOrchestrator
from athanor.hooks.reporting.rich_reporter import RichReporter
from athanor.hooks.reporting.scalars import (
    ScalarCallback,
    ScalarSnapshot,
    collect_scalars,
    extract_dynamics_scalars,
    extract_loss_scalars,
    extract_optimizer_lr_scalars,
    extract_scalars,
)
from athanor.hooks.reporting.state import Reporter, ReporterMessage, ReportingErrorPolicy, ReportingState
from athanor.hooks.reporting.tensorboard import TensorBoardReporter, TensorBoardWriter

__all__ = [
    "BaseRichLayout",
    "CSVReporter",
    "DynamicsRichLayout",
    "Reporter",
    "ReporterMessage",
    "ReportingErrorPolicy",
    "ReportingOrchestrator",
    "ReportingState",
    "RichLayout",
    "RichReporter",
    "ScalarCallback",
    "ScalarSnapshot",
    "TensorBoardReporter",
    "TensorBoardWriter",
    "TrainingRichLayout",
    "collect_scalars",
    "extract_dynamics_scalars",
    "extract_loss_scalars",
    "extract_optimizer_lr_scalars",
    "extract_scalars",
]
