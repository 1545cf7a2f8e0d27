"""One table of public names that live elsewhere, and the lazy lookup that every door shares.

A door is a package whose public names have their home in another module, often one in a higher layer. It defines
nothing: ``__getattr__, __dir__ = door(__name__)`` looks a name up on first use (PEP 562), so that no file imports
upward and nothing heavy loads early.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

TABLE: dict[str, dict[str, str]] = {
    "athanor": {
        "AtomicData": "athanor.data.atomic_data",
        "Batch": "athanor.data.batch",
        "relax": "athanor.workflows.relax",
        "md": "athanor.workflows.md",
        "evaluate": "athanor.workflows.evaluate",
        "compare": "athanor.workflows.compare",
        "calculator": "athanor.workflows.calculator",
        "AthanorCalculator": "athanor.workflows.calculator",
        "open": "athanor.workflows.saved_run",
        "plot": "athanor.workflows.plot",
        "select": "athanor.workflows.select",
        "export": "athanor.workflows.export",
        "set_num_threads": "athanor._runtime",
        "data": "athanor.data",
        "dynamics": "athanor.dynamics",
        "errors": "athanor.errors",
        "hooks": "athanor.hooks",
        "models": "athanor.models",
        "neighbors": "athanor.neighbors",
        "testing": "athanor.testing",
        "units": "athanor.units",
    },
    "athanor.dynamics": {
        "FusedStage": "athanor.dynamics.fused",
        "AutoBatcher": "athanor.dynamics.auto_batcher",
        "SizeAwareSampler": "athanor.dynamics.sampler",
        "AsyncSink": "athanor.sinks",
        "GPUBuffer": "athanor.sinks",
        "HostMemory": "athanor.sinks",
        "TeeSink": "athanor.sinks",
        "ZarrData": "athanor.sinks",
        "DataSink": "athanor.sinks",
    },
    "athanor.dynamics.hooks": {
        "TorchProfilerHook": "athanor.hooks.torch_profiler",
    },
    "athanor.dynamics.hooks.profiling": {
        "StageTimingHook": "athanor.hooks.timing",
        "TorchProfilerHook": "athanor.hooks.torch_profiler",
    },
    "athanor.hooks": {
        "BiasedPotentialHook": "athanor.dynamics.hooks.bias",
        "TorchProfilerHook": "athanor.hooks.torch_profiler",
        "BaseRichLayout": "athanor.hooks.reporting",
        "CSVReporter": "athanor.hooks.reporting",
        "DynamicsRichLayout": "athanor.hooks.reporting",
        "Reporter": "athanor.hooks.reporting",
        "ReporterMessage": "athanor.hooks.reporting",
        "ReportingErrorPolicy": "athanor.hooks.reporting",
        "ReportingOrchestrator": "athanor.hooks.reporting",
        "ReportingState": "athanor.hooks.reporting",
        "RichLayout": "athanor.hooks.reporting",
        "RichReporter": "athanor.hooks.reporting",
        "ScalarCallback": "athanor.hooks.reporting",
        "ScalarSnapshot": "athanor.hooks.reporting",
        "TensorBoardReporter": "athanor.hooks.reporting",
        "TensorBoardWriter": "athanor.hooks.reporting",
        "TrainingRichLayout": "athanor.hooks.reporting",
        "collect_scalars": "athanor.hooks.reporting",
        "extract_dynamics_scalars": "athanor.hooks.reporting",
        "extract_loss_scalars": "athanor.hooks.reporting",
        "extract_optimizer_lr_scalars": "athanor.hooks.reporting",
        "extract_scalars": "athanor.hooks.reporting",
    },
    "athanor.neighbors": {
        "NeighborConfig": "athanor.neighbors.config",
        "NeighborListFormat": "athanor.neighbors.config",
        "compute_neighbors": "athanor.neighbors.build",
    },
    "athanor.models": {
        "AIMNet2Wrapper": "athanor.models.aimnet2",
        "ASEModelWrapper": "athanor.models.ase_model",
        "BaseModelMixin": "athanor.models.mixin",
        "BuckinghamModelWrapper": "athanor.models.buckingham",
        "CHGNetWrapper": "athanor.models.chgnet",
        "CommitteeModelWrapper": "athanor.models.committee",
        "DFTD3ModelWrapper": "athanor.models.dftd3",
        "DFTD4ModelWrapper": "athanor.models.dftd4",
        "DemoModelWrapper": "athanor.models.demo",
        "DSFModelWrapper": "athanor.models.dsf",
        "EAMModelWrapper": "athanor.models.eam",
        "EwaldModelWrapper": "athanor.models.ewald",
        "LearnedModel": "athanor.models.learned",
        "LennardJonesModelWrapper": "athanor.models.lj",
        "MACEWrapper": "athanor.models.mace",
        "SevenNetWrapper": "athanor.models.sevennet",
        "SO3LRWrapper": "athanor.models.so3lr",
        "DIEPWrapper": "athanor.models.diep",
        "MetatomicWrapper": "athanor.models.metatomic",
        "ModelCard": "athanor.models.card",
        "ModelConfig": "athanor.models.config",
        "NequIPWrapper": "athanor.models.nequip",
        "NetworkGraph": "athanor.models.network_graph",
        "MatterSimWrapper": "athanor.models.mattersim",
        "OrbWrapper": "athanor.models.orb",
        "MorseModelWrapper": "athanor.models.morse",
        "PMEModelWrapper": "athanor.models.pme",
        "PairFunctionModelWrapper": "athanor.models.pair_function",
        "PipelineGroup": "athanor.models.pipeline",
        "PipelineModelWrapper": "athanor.models.pipeline",
        "PipelineStep": "athanor.models.pipeline",
        "QEqModelWrapper": "athanor.models.qeq",
        "aimnet2_potential": "athanor.models.aimnet2",
        "StillingerWeberModelWrapper": "athanor.models.stillinger_weber",
        "ZBLModelWrapper": "athanor.models.zbl",
        "available": "athanor.models.registry",
        "get": "athanor.models.registry",
        "hessian": "athanor.models.second_derivatives",
        "UMAWrapper": "athanor.models.uma",
    },
    "athanor.testing": {
        "ModelReport": "athanor.testing.model_kit.report",
        "Row": "athanor.testing.model_kit.report",
        "Verdict": "athanor.testing.model_kit.report",
        "check_model": "athanor.testing.model_contract",
    },
}
"""Door module -> public name -> module that defines it, or that it is."""

_PROFILER = "`ProfilerHook` was removed: `StageTimingHook` times stages, and `TorchProfilerHook` records a trace."
REMOVED = dict.fromkeys(
    [("athanor.dynamics.hooks", "ProfilerHook"), ("athanor.dynamics.hooks.profiling", "ProfilerHook")], _PROFILER
)
"""(door module, name that is no more) -> what to use instead."""


def resolve(module: str, name: str) -> Any:
    """Return the public `name` of the door `module`, importing its home.

    Raises
    ------
    AttributeError
        If the table has no such row.
    ImportError
        If the name was removed; the text says what to use instead.
    """
    if (module, name) in REMOVED:
        raise ImportError(REMOVED[module, name], name=name)
    home = TABLE.get(module, {}).get(name)
    if home is None:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    found = importlib.import_module(home)
    return found if home == f"{module}.{name}" else getattr(found, name)


def door(module: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for the door called `module`.

    Raises
    ------
    AttributeError
        From the returned function, if the name is not in the table; submodules resolve as usual.
    """
    homes = TABLE.get(module, {})

    def getattr_(name: str) -> Any:
        value = resolve(module, name)
        setattr(sys.modules[module], name, value)
        return value

    def dir_() -> list[str]:
        return sorted(set(vars(sys.modules[module])) | set(homes))

    return getattr_, dir_
