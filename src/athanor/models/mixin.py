"""BaseModelMixin: the interface between a PyTorch model and everything else here.

A wrapper inherits ``(nn.Module or the user's module, BaseModelMixin)``, sets ``self.model_config`` in its constructor
and goes input -> module -> output in ``forward``. Nothing wraps ``__init__`` or ``forward``; a call hands ``forward`` a
view of the data, so that what it flags or assigns there does not reach the caller.
"""

from __future__ import annotations

import warnings
from abc import ABC, ABCMeta, abstractmethod
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from athanor import _doors
from athanor.data._mixin import DataMixin
from athanor.data.fields import FIELDS, ROW_OF, assume_what_is_absent
from athanor.errors import ContractError, MissingFieldError, NotAvailableError, UnknownFieldError
from athanor.hooks.neighbor_list import NeighborListHook
from athanor.kernels._library import has_tangent, is_transformed
from athanor.models.card import ModelCard
from athanor.models.derivatives import energy_and_derivatives, strained_view
from athanor.models.outputs import asking_for
from athanor.neighbors.lookup import show_pairs

if TYPE_CHECKING:
    from collections.abc import Set
    from pathlib import Path

    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.data.batch import Batch
    from athanor.models.config import ModelConfig

_NEIGHBOR_INPUTS = frozenset({"neighbor_list", "neighbor_matrix", "num_neighbors", "pair_list"})
_GEOMETRY = frozenset({"positions", "cell"})


class _ModelMeta(ABCMeta):
    """Checks, once a wrapper is built, that its constructor set `model_config`."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        from athanor.models.config import ModelConfig  # here, so that engines load without pydantic

        model = super().__call__(*args, **kwargs)
        if not isinstance(getattr(model, "model_config", None), ModelConfig):
            raise ContractError(
                f"{cls.__name__} has no `model_config`. Set `self.model_config = ModelConfig(...)` in its `__init__`."
            )
        return model


class BaseModelMixin(ABC, metaclass=_ModelMeta):
    """Interface of every model; inherit it behind an ``nn.Module``.

    Attributes
    ----------
    model_config
        `ModelConfig`, set by the constructor of each wrapper; there is no default for the class.
    model_card
        `ModelCard`; all unknown unless the wrapper sets one.
    """

    model_config: ModelConfig
    model_card: ModelCard = ModelCard()
    _dist_ctx: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if getattr(cls, "extra_repr", None) in (None, nn.Module.extra_repr):
            cls.extra_repr = _extra_repr  # type: ignore[attr-defined]
        if cls.__call__ is nn.Module.__call__:  # it stands before ours in the order of bases
            cls.__call__ = BaseModelMixin.__call__  # type: ignore[method-assign]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what ``forward`` returns for a view of the data; see `Batch.shallow_view`.

        Flags and assignments stay in the view. Inputs in ``model_config.gradient_keys`` get their flag on the caller's
        own tensors, since it is the caller who asked for it.
        """
        if args:
            args = (self._view_of(args[0]), *args[1:])
        if kwargs:
            kwargs = {name: self._view_of(value) for name, value in kwargs.items()}
        return nn.Module.__call__(cast("nn.Module", self), *args, **kwargs)

    def _view_of(self, value: Any) -> Any:
        if not isinstance(value, DataMixin):
            return value
        config = self.model_config
        for name in _GEOMETRY:
            if (tensor := getattr(value, name, None)) is not None and has_tangent(tensor):
                raise NotAvailableError(  # a view has no tangents, so they would be zero without a word
                    f"`{name}` carries a derivative in forward mode, as in `torch.func.jvp`; models give derivatives "
                    f"in reverse mode only. Use `torch.autograd.grad`, or `torch.autograd.functional.vjp`."
                )
        if is_transformed():
            raise NotAvailableError(
                "Models are differentiated by `torch.autograd`, not by transforms of `torch.func` such as `grad`, "
                "`hessian` and `vmap`. Use `torch.autograd.grad`, or `athanor.models.hessian(model, batch)`."
            )
        view: Any = value.shallow_view((_GEOMETRY | config.autograd_inputs) - config.gradient_keys)
        neighbors, lists = config.neighbor_config, getattr(view, "pair_lists", ())
        if neighbors is not None and lists:
            if len(lists) > 1:
                show_pairs(view, neighbors)
            view.show_within(neighbors.cutoff)
        return view

    # -- what a wrapper must define

    @property
    @abstractmethod
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Trailing shape of each embedding the model offers; empty if there is none."""

    @abstractmethod
    def compute_embeddings(self, data: AtomicData | Batch, **kwargs: Any) -> AtomicData | Batch:
        """Write the embeddings to `data` in place and return it."""

    # -- input and output

    def input_data(self) -> set[str]:
        """Names of the inputs that `adapt_input` collects."""
        config = self.model_config
        names = {"positions", "atomic_numbers"} | config.required_inputs
        if config.neighbor_config is not None:
            if config.neighbor_config.format == "coo":
                names.add("neighbor_list")
            else:
                names |= {"neighbor_matrix", "num_neighbors"}
        if config.needs_pbc:
            names.add("pbc")
        return names

    def output_data(self) -> set[str]:
        """Names of the outputs to compute now: active ones that the model can produce.

        Warns once about active names that it can not produce.
        """
        config = self.model_config
        active = config.active_outputs or set()
        if not active <= config.outputs:
            self._warn_unsupported(frozenset(active - config.outputs))
        return active & config.outputs

    def _warn_unsupported(self, names: frozenset[str]) -> None:
        warned: set[frozenset[str]] = self.__dict__.setdefault("_warned_outputs", set())
        if names not in warned:
            warned.add(names)
            warnings.warn(
                f"{type(self).__name__} cannot compute {', '.join(sorted(names))}; it can compute "
                f"{', '.join(sorted(self.model_config.outputs))}. Remove the rest from `model_config.active_outputs`.",
                UserWarning,
                stacklevel=4,
            )

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Collect the inputs of the model and switch gradients on where they are needed.

        The tensors are those of `data`, not copies: after this call ``data.positions`` requires grad if an autograd
        output is active, so a wrapper may differentiate with respect to it. In ``forward``, `data` is a view. A charge
        or spin that only some systems of a batch have is 0 or 1 for the others, see `FieldSpec.assumed`.

        Raises
        ------
        MissingFieldError
            A `KeyError` that names an input which is absent.
        ContractError
            A `TypeError`, if something to differentiate by is not a tensor.
        """
        config = self.model_config

        def require(key: str) -> Any:
            value = getattr(data, key, None)
            if value is None:
                raise self._missing(key, data)
            return value

        gradient_keys = set(config.gradient_keys)
        if config.autograd_outputs & (config.active_outputs or set()):
            gradient_keys |= config.autograd_inputs
        for key in sorted(gradient_keys):
            value = require(key)
            if not isinstance(value, torch.Tensor):
                raise ContractError(f"`{key}` is not a tensor but a {type(value).__name__}; it can not require grad.")
            value.requires_grad_(True)
        inputs = {key: require(key) for key in sorted(self.input_data())}
        for key in sorted(config.optional_inputs):
            value = getattr(data, key, None)
            if value is not None:
                inputs[key] = value
        assume_what_is_absent(inputs)
        return inputs

    def _missing(self, key: str, data: Any) -> MissingFieldError:
        name = type(self).__name__
        if key in _NEIGHBOR_INPUTS:
            return MissingFieldError(
                f"`{key}` is missing: the batch has no neighbour list, which {name} needs. Register the hooks of "
                f"`model.make_neighbor_hooks()`, or call `compute_neighbors(batch, config=model.model_config."
                f"neighbor_config)` first."
            )
        spec = FIELDS.get(key)
        what = "" if spec is None else f", one row per {ROW_OF[spec.level]}{f', in {spec.unit}' if spec.unit else ''}"
        present = ", ".join(sorted(field for field, _ in data())) if isinstance(data, DataMixin) else "none"
        return MissingFieldError(
            f"`{key}` is missing from the {type(data).__name__}; {name} needs it. Set `data.{key}`{what}. "
            f"Fields present: {present}."
        )

    def adapt_output(self, model_output: Any, data: AtomicData | Batch) -> ModelOutputs:
        """Map raw outputs to the standard keys.

        Returns
        -------
        ModelOutputs
            One key for each of `output_data`, sorted; ``None`` where `model_output` has no such key or is no
            dictionary. A one-dimensional energy becomes [B, 1]. Nothing is detached.
        """
        outputs: ModelOutputs = OrderedDict((key, None) for key in sorted(self.output_data()))
        if isinstance(model_output, dict):
            for key in outputs:
                value = model_output.get(key)
                if key == "energy" and isinstance(value, torch.Tensor) and value.ndim == 1:
                    value = value.unsqueeze(-1)
                outputs[key] = value
        return outputs

    # -- derivatives

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the energy of `data` as something that others differentiate, alone or in a sum of models.

        Parameters
        ----------
        data
            A view; positions and cell may require grad.
        strain
            [B, 3, 3], zeros by which the energy is to be differentiable too: multiply positions and cell by it
            (`strained_view`), or attach it to the vectors between atoms (`attached_vectors`). ``None``: no stress.
        wanted
            Outputs that are asked for.

        Returns
        -------
        dict
            ``energy`` [B, 1], attached, and of `wanted` what the model has beyond forces and stress.

        Notes
        -----
        By default the model is called, on strained positions, for its energy alone. One that leaves its derivatives to
        `outputs_by_autograd` has to define this.
        """
        asked = {"energy", *wanted} & self.model_config.outputs
        with asking_for(self, asked), torch.enable_grad():  # which a forward that differentiates counts on
            outputs = self(strained_view(data, strain))
        return {key: value for key, value in outputs.items() if value is not None}

    def outputs_by_autograd(self, data: AtomicData | Batch) -> ModelOutputs:
        """Return the active outputs, forces and stress from `attached_energy`.

        They are detached unless the model trains (it has a parameter that requires grad) or `data` carries a graph.
        """
        if type(self).attached_energy is BaseModelMixin.attached_energy:
            raise ContractError(f"{type(self).__name__} does not define `attached_energy`, of which forces are made.")
        outputs = energy_and_derivatives(self, data, self.output_data(), keep_graph=self._trains)
        return self.adapt_output(outputs, data)

    @property
    def _trains(self) -> bool:
        """Whether results stay attached, as a parameter is to be fitted."""
        module = cast("nn.Module", self)
        return module.training and any(parameter.requires_grad for parameter in module.parameters())

    def direct_derivative_keys(self) -> set[str]:
        """Derivatives that stay analytic inside an autograd group of a pipeline."""
        return set()

    # -- configuration

    def configurations(self) -> list[ModelConfig]:
        """Return what a call of the model changes for its time: its configuration, and those of models in it."""
        return [self.model_config]

    def set_config(self, key: str, value: Any) -> None:
        """Set a field of `model_config`.

        Raises
        ------
        AttributeError
            If there is no such field.
        """
        fields = type(self.model_config).model_fields
        if key not in fields:
            raise UnknownFieldError(f"ModelConfig has no field `{key}`; it has {', '.join(fields)}.")
        setattr(self.model_config, key, value)

    def make_neighbor_hooks(
        self, max_neighbors: int | None = None, neighbor_list_method: str | None = None
    ) -> list[NeighborListHook]:
        """Return the hook that keeps the neighbour list of this model; none if it needs no list.

        Parameters
        ----------
        max_neighbors
            Smallest width of the matrix view.
        neighbor_list_method
            Accepted for compatibility; the search method is chosen by size.

        Returns
        -------
        list of NeighborListHook
            With ``stage=None``: name the stage at registration, or leave it to the default (BEFORE_COMPUTE).
        """
        config = self.model_config.neighbor_config
        if config is None:
            return []
        hook = NeighborListHook(config, skin=config.skin, max_neighbors=max_neighbors, method=neighbor_list_method)
        hook.stage = None
        return [hook]

    # -- optional abilities

    def add_output_head(self, prefix: str) -> None:
        """Add an output head; not offered unless the wrapper defines it."""
        raise NotAvailableError(f"{type(self).__name__} can not take another output head.")

    def export_model(self, path: Path, as_state_dict: bool = False) -> None:
        """Write the model without this interface; not offered unless the wrapper defines it."""
        raise NotAvailableError(f"{type(self).__name__} can not be exported.")

    def distribution_spec(self, strategy: str | None = None) -> Any:
        """How to split one system over devices; ``None``: it can not be split."""
        return None

    def distributed_setup(self, ctx: Any) -> None:
        """Take the context of a distributed run."""
        self._dist_ctx = ctx

    def distributed_teardown(self) -> None:
        """Drop the context of a distributed run."""
        self._dist_ctx = None

    def __add__(self, other: Any) -> Any:
        """Return a `PipelineModelWrapper`: energies, forces and stress of both, which know nothing of each other."""
        if not isinstance(other, BaseModelMixin):
            raise self._can_not_add(other)
        return _doors.resolve("athanor.models", "PipelineModelWrapper").of_sum(self, other)

    def __radd__(self, other: Any) -> BaseModelMixin:
        """Take the 0 that `sum` starts with; refuse what is no model."""
        if type(other) is int and other == 0:
            return self
        raise self._can_not_add(other)

    def _can_not_add(self, other: Any) -> ContractError:
        return ContractError(
            f"{type(self).__name__} + {type(other).__name__}: only models are added to models. To change energies by a "
            f"constant, change `batch.energy` after the run."
        )


def _extra_repr(self: BaseModelMixin) -> str:
    """Summary of the configuration for ``repr(model)``."""
    config = self.__dict__.get("model_config")
    if config is None:
        return "model_config not set"
    lines = [f"outputs={sorted(config.outputs)}"]
    if config.active_outputs != config.outputs:
        lines.append(f"active_outputs={sorted(config.active_outputs or ())}")
    sets = ("autograd_outputs", "required_inputs", "optional_inputs")
    lines += [f"{name}={sorted(getattr(config, name))}" for name in sets if getattr(config, name)]
    pbc = [name for name in ("supports_pbc", "needs_pbc") if getattr(config, name)]
    if pbc:
        lines.append(f"pbc={pbc}")
    neighbors = config.neighbor_config
    if neighbors is not None:
        half = ", half_list" if neighbors.half_list else ""
        lines.append(f"neighbors=(cutoff={neighbors.cutoff:g}, {neighbors.format.value}{half})")
    return ", ".join(lines)
