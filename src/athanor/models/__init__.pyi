# Written by tests/architecture/door_stubs.py from athanor/_doors.py and the __init__.py beside it.

from athanor.models.ase_model import ASEModelWrapper as ASEModelWrapper
from athanor.models.card import ModelCard as ModelCard
from athanor.models.chgnet import CHGNetWrapper as CHGNetWrapper
from athanor.models.config import ModelConfig as ModelConfig
from athanor.models.demo import DemoModelWrapper as DemoModelWrapper
from athanor.models.dftd3 import DFTD3ModelWrapper as DFTD3ModelWrapper
from athanor.models.dftd4 import DFTD4ModelWrapper as DFTD4ModelWrapper
from athanor.models.dsf import DSFModelWrapper as DSFModelWrapper
from athanor.models.ewald import EwaldModelWrapper as EwaldModelWrapper
from athanor.models.learned import LearnedModel as LearnedModel
from athanor.models.lj import LennardJonesModelWrapper as LennardJonesModelWrapper
from athanor.models.mace import MACEWrapper as MACEWrapper
from athanor.models.mixin import BaseModelMixin as BaseModelMixin
from athanor.models.network_graph import NetworkGraph as NetworkGraph
from athanor.models.pipeline import PipelineGroup as PipelineGroup
from athanor.models.pipeline import PipelineModelWrapper as PipelineModelWrapper
from athanor.models.pipeline import PipelineStep as PipelineStep
from athanor.models.pme import PMEModelWrapper as PMEModelWrapper
from athanor.models.qeq import QEqModelWrapper as QEqModelWrapper
from athanor.models.registry import available as available
from athanor.models.registry import get as get
from athanor.models.second_derivatives import hessian as hessian
