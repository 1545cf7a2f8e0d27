"""PipelineModelWrapper: several models as one."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from athanor import _runtime
from athanor._values import is_real
from athanor.data.batch import Batch
from athanor.errors import AthanorWarning, InputError, NotAvailableError
from athanor.models.card import common_dtype
from athanor.models.derivatives import carries_graph
from athanor.models.mixin import BaseModelMixin
from athanor.models.outputs import ADDITIVE_KEYS
from athanor.models.pipeline import files
from athanor.models.pipeline.configuration import PARTS_OF_ENERGY, card_of, config_of
from athanor.models.pipeline.evaluation import attached_outputs, evaluate_plan
from athanor.models.pipeline.parts import DerivativeFunction, NeighborAdaptation, PipelineGroup, name_of
from athanor.models.pipeline.plan import make_plan

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.models.config import ModelConfig

_POLICIES = ("auto", "always", "never")


class PipelineModelWrapper(nn.Module, BaseModelMixin):
    r"""A sum of models, of which some may read what others give.

    .. math:: E = \sum_m E_m, \qquad F = -\frac{\partial E}{\partial r}, \qquad
              \sigma = \frac{1}{V} \frac{\partial E}{\partial \varepsilon}

    Models run in the order in which they stand. ``a + b`` makes one whose models know nothing of each other. In an
    explicit pipeline, a model whose configuration names an input that an earlier one gives reads it from there, under
    its own name or the one of `PipelineStep.wire`; forces and stress contain what acts through it, also from group to
    group.

    Parameters
    ----------
    groups
        `PipelineGroup` objects, each a list of models; ``use_autograd`` differentiates their summed energy once.
    additive_keys
        Outputs that add up; replaces energy, forces, stress. Forces, stress, per-atom energies and the Hessian follow
        the energy. Of others the
        last model's counts, and that of each has a name with its place, such as ``charges_2``, if several give it.
    neighbor_adaptation, max_cutoff_ratio
        Accepted for compatibility and kept. Which lists are stored follows from what the models read in a run; one list
        at the largest cutoff is always enough, and no model reads pairs beyond its own cutoff.
    scopes
        A number for each group: models read what earlier ones of the same number give. By default all have the same;
        what was joined by ``+`` has different ones.

    Raises
    ------
    InputError
        If models do not go together, a wire leads nowhere, or forces through a wire would be lost; the text says why.
    ContractError
        A `TypeError`, if something is no model.

    Notes
    -----
    ``model_config.active_outputs`` says what is computed: energy alone does no work for forces. After a call the batch
    and the models are as before. Results are detached unless the pipeline trains or the positions carry a graph.

    Examples
    --------
    >>> from athanor.models.lj import LennardJonesModelWrapper
    >>> argon = LennardJonesModelWrapper(epsilon=0.0104, sigma=3.4, cutoff=8.5)
    >>> wall = LennardJonesModelWrapper(epsilon=0.001, sigma=2.0, cutoff=5.0)
    >>> (argon + wall).model_config.neighbor_config.cutoff
    8.5
    """

    def __init__(
        self,
        groups: Sequence[PipelineGroup],
        additive_keys: Collection[str] | None = None,
        *,
        neighbor_adaptation: NeighborAdaptation = "auto",
        max_cutoff_ratio: float = 1.5,
        scopes: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if neighbor_adaptation not in _POLICIES:
            raise InputError(f"`neighbor_adaptation` is {neighbor_adaptation!r}; use one of {', '.join(_POLICIES)}.")
        if not is_real(max_cutoff_ratio) or max_cutoff_ratio < 1.0:
            raise InputError(f"`max_cutoff_ratio` is {max_cutoff_ratio!r}; it must be 1 or more.")
        self.groups = [group if isinstance(group, PipelineGroup) else PipelineGroup(group) for group in groups]
        if not self.groups:
            raise InputError("`groups` is empty; give at least one `PipelineGroup`.")
        self.additive_keys = None if additive_keys is None else frozenset(additive_keys)
        self.neighbor_adaptation, self.max_cutoff_ratio = neighbor_adaptation, max_cutoff_ratio
        self.scopes = [0] * len(self.groups) if scopes is None else list(scopes)
        self._models = nn.ModuleList([step.model for group in self.groups for step in group.steps])
        if "energy" not in self._additive and any(group.use_autograd for group in self.groups):
            raise InputError("`additive_keys` lacks `energy`, and a group with `use_autograd` differentiates its sum.")
        self._plan = make_plan(self.groups, self.scopes, self._additive)
        self.model_config = config_of(self._plan, self._additive)
        self.model_card = card_of(self._plan)
        self.training = any(model._trains for model in self._models)  # a sum of what is evaluated trains nothing

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move or convert the models, as `to` does; the card tells the precision that they then compute in."""
        super()._apply(fn, recurse)
        cards = [step.model.model_card for step in self._plan.steps]
        self.model_card = replace(self.model_card, dtype=common_dtype(cards))
        return self

    @property
    def _additive(self) -> frozenset[str]:
        keys = ADDITIVE_KEYS if self.additive_keys is None else self.additive_keys
        return keys | PARTS_OF_ENERGY if "energy" in keys else keys - PARTS_OF_ENERGY

    @classmethod
    def of_sum(cls, first: BaseModelMixin, second: BaseModelMixin) -> PipelineModelWrapper:
        """Return the flat sum of two models or pipelines; settings of pipelines are kept.

        Raises
        ------
        InputError
            If both are pipelines with different settings.
        """
        pipelines = [each for each in (first, second) if isinstance(each, PipelineModelWrapper)]
        settings = [each.settings for each in pipelines]
        if len(settings) == 2 and (
            different := sorted(key for key in settings[0] if settings[0][key] != settings[1][key])
        ):
            raise InputError(
                f"The two pipelines have different {', '.join(f'`{key}`' for key in different)}; "
                f"build the sum explicitly with `PipelineModelWrapper([*a.groups, *b.groups], ...)`."
            )
        groups: list[PipelineGroup] = []
        scopes: list[int] = []
        for each in (first, second):
            offset = max(scopes, default=-1) + 1  # nobody reads across the plus sign
            flat = each if isinstance(each, PipelineModelWrapper) else cls([PipelineGroup([each])])
            scopes += [scope + offset for scope in flat.scopes]
            groups += flat.groups
        total = cls(groups, **(settings[0] if settings else {}), scopes=scopes)
        active = frozenset().union(*(each.model_config.active_outputs or () for each in (first, second)))
        total.model_config.active_outputs = set(active & total.model_config.outputs)
        _warn_of_what_is_not_wired(first, second)
        return total

    def output_data(self) -> set[str]:
        """Names of the outputs to compute now; a `derivative_fn` may be asked for any."""
        if self._plan.derivative_fns:
            return set(self.model_config.active_outputs or ())
        return super().output_data()

    def configurations(self) -> list[ModelConfig]:
        """Return the configurations of the pipeline and of all its models."""
        return [self.model_config, *(config for step in self._plan.steps for config in step.model.configurations())]

    def _view_of(self, value: Any) -> Any:
        if self._plan.sums_energies or self._plan.derivative_fns:
            return super()._view_of(value)
        return value  # each model takes a view of its own

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch, or of one structure."""
        batch = data if isinstance(data, Batch) else Batch.from_data_list([data])
        for key in sorted(self.model_config.gradient_keys):
            batch[key].requires_grad_(True)
        wanted = self.output_data()
        keep_graph = (self._trains and torch.is_grad_enabled()) or carries_graph(batch)
        outputs = evaluate_plan(self._plan, batch, wanted, self._additive, keep_graph=keep_graph)
        if "energy" not in wanted:
            outputs.pop("energy", None)
        return OrderedDict((key, value if keep_graph else value.detach()) for key, value in outputs.items())

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the summed energy of all models, attached; see `BaseModelMixin.attached_energy`."""
        return attached_outputs(self._plan, data, strain, wanted, self._additive)

    def __deepcopy__(self, memo: dict[int, Any]) -> PipelineModelWrapper:
        """Return a pipeline of copies; each `derivative_fn` is shared."""
        groups = [
            PipelineGroup(
                [type(step)(copy.deepcopy(step.model, memo), step.wire, step.constants) for step in group.steps],
                group.use_autograd,
                group.derivative_fn,
            )
            for group in self.groups
        ]
        result = type(self)(groups, **self._arguments)
        result.model_config = copy.deepcopy(self.model_config, memo)
        result.train(self.training)
        memo[id(self)] = result
        return result

    @property
    def _arguments(self) -> dict[str, Any]:
        """Arguments of the constructor beside the groups."""
        return self.settings | {"scopes": self.scopes}

    @property
    def settings(self) -> dict[str, Any]:
        """How outputs are added and neighbours found, whatever the groups."""
        return {
            "additive_keys": self.additive_keys,
            "neighbor_adaptation": self.neighbor_adaptation,
            "max_cutoff_ratio": self.max_cutoff_ratio,
        }

    # -- embeddings

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of the models; with the place of the model, as in ``node_embeddings_2``, if several have them."""
        return {name: shape for found in self._embeddings() for name, shape in found[1].items()}

    def _embeddings(self) -> list[tuple[int, dict[str, tuple[int, ...]]]]:
        """Return the place of each model that has embeddings, and their shapes by name."""
        found = [(step.position, step.model.embedding_shapes) for step in self._plan.steps]
        found = [(position, shapes) for position, shapes in found if shapes]
        if len(found) < 2:
            return found
        return [
            (position, {f"{name}_{position + 1}": shape for name, shape in shapes.items()})
            for position, shapes in found
        ]

    def compute_embeddings(self, data: AtomicData | Batch, **kwargs: Any) -> AtomicData | Batch:
        """Write the embeddings of every model that has some to `data`, named as `embedding_shapes` says.

        Raises
        ------
        NotAvailableError
            A `NotImplementedError`, if no model has any.
        """
        places = [position for position, _ in self._embeddings()]
        if not places:
            raise NotAvailableError(f"{self.model_card.name} has no embeddings.")
        for position in places:
            view = data.shallow_view(())
            before = dict(view())
            self._plan.steps[position].model.compute_embeddings(view, **kwargs)
            suffix = f"_{position + 1}" if len(places) > 1 else ""
            for name, value in view():
                if before.get(name) is not value:
                    setattr(data, f"{name}{suffix}", value)
        return data

    # -- saving

    def save(self, path: Path | str) -> None:
        """Write groups, wires, settings, what is active, and all parameters to a file without pickled code.

        Models themselves, and each `derivative_fn`, are handed in again by who loads it.
        """
        active = self.model_config.active_outputs or ()
        files.save(Path(path), files.SavedPipeline(self.groups, self._arguments, active, self.state_dict()))

    @classmethod
    def load(
        cls,
        path: Path | str,
        models: Sequence[BaseModelMixin],
        derivative_fns: Mapping[int, DerivativeFunction] | None = None,
    ) -> PipelineModelWrapper:
        """Read what `save` wrote.

        Parameters
        ----------
        path
            File to read.
        models
            Models of the same kinds, in the order in which they run; they get the parameters of the file.
        derivative_fns
            By number of the group, for those that had one.

        Raises
        ------
        InputError
            A `ValueError`, if the file is damaged, or `models` or `derivative_fns` do not fit it.
        """
        saved = files.load(Path(path), models, derivative_fns or {})
        pipeline = cls(saved.groups, **saved.settings)
        pipeline.model_config.active_outputs = set(saved.active_outputs)
        try:
            pipeline.load_state_dict(saved.state)
        except RuntimeError as error:
            raise InputError(
                f"The parameters in `{path}` do not fit `models`: {' '.join(str(error).split())}. Pass models of the "
                f"same kinds and sizes, in the same order."
            ) from error
        return pipeline

    def extra_repr(self) -> str:
        """Show the plan: which models are differentiated together, who reads what, and what is active."""
        return "\n".join(_lines(self))


def _warn_of_what_is_not_wired(first: BaseModelMixin, second: BaseModelMixin) -> None:
    """Warn if one operand of a plus sign gives what the other needs: they know nothing of each other."""
    for giver, reader in ((first, second), (second, first)):
        for name in sorted(giver.model_config.outputs & reader.model_config.required_inputs):
            text = (
                f"{name_of(giver)} predicts `{name}`, and {name_of(reader)} beside it reads those of the batch, as "
                f"models that are added know nothing of each other. To hand them on, use "
                f"`PipelineModelWrapper([PipelineGroup([first, second], use_autograd=True)])`."
            )
            warnings.warn(AthanorWarning(text), stacklevel=_runtime.level_of_caller())


def _lines(pipeline: PipelineModelWrapper) -> list[str]:
    """Return one line for each group and step of a pipeline, and one for the outputs."""
    lines, plan = [], pipeline._plan
    for index, group in enumerate(pipeline.groups):
        how = "own forces"
        if group.derivative_fn is not None:
            how = f"derivatives by {getattr(group.derivative_fn, '__name__', 'a function')}"
        elif group.use_autograd:
            how = "energies differentiated together"
        lines.append(f"group {index + 1}: {how}")
        for step in (step for step in plan.steps if step.group == index):
            neighbors = step.model.model_config.neighbor_config
            facts = [] if neighbors is None else [f"cutoff {neighbors.cutoff:g} Å"]
            facts += [f"reads {', '.join(sorted(step.reads))}"] if step.reads else []
            given = [name if name == read_as else f"{name} as {read_as}" for name, read_as in step.gives.items()]
            facts += [f"gives {', '.join(given)}"] if given else []
            if step.is_joint and not group.use_autograd:
                facts.append("differentiated together with who reads or gives that")
            lines.append(f"  {step.position + 1}. {name_of(step.model)}{': ' if facts else ''}{'; '.join(facts)}")
    lines.append(f"active_outputs={sorted(pipeline.model_config.active_outputs or ())}")
    return lines
