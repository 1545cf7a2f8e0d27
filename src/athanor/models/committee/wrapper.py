"""CommitteeModelWrapper: several models asked the same, for their mean and how far they disagree."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn

from athanor.data.batch import Batch
from athanor.data.fields import FIELDS
from athanor.errors import ContractError, InputError, NotAvailableError
from athanor.kernels import segment_max
from athanor.models import registry
from athanor.models.card import common_dtype
from athanor.models.committee.deviation import DEVIATIONS, OF_FORCES, energy_deviation, force_deviation, mean_of
from athanor.models.config import ModelConfig
from athanor.models.derivatives import carries_graph, check_attached, leaves
from athanor.models.mixin import BaseModelMixin
from athanor.models.outputs import asking_for, checked_outputs
from athanor.models.pipeline.configuration import card_of, config_of
from athanor.models.pipeline.parts import PipelineGroup, name_of
from athanor.models.pipeline.plan import DERIVATIVES, make_plan
from athanor.models.prepared import sharing_prepared

if TYPE_CHECKING:
    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData
    from athanor.models.card import ModelCard

_DEVIATION = "force deviation: doi:10.1016/j.cpc.2020.107206"
_FEATURES = frozenset(name for name, row in FIELDS.items() if None in row.shape)
"""Learned features, of which those of one network mean nothing to another one."""


class CommitteeModelWrapper(nn.Module, BaseModelMixin):
    r"""Several models of the same, whose mean counts and whose disagreement tells where none of them knows.

    .. math:: E = \frac{1}{M} \sum_m E_m, \qquad F = \frac{1}{M} \sum_m F_m, \qquad
              \sigma = \frac{1}{M} \sum_m \sigma_m

    Use it with models that were fitted to the same data from different starts, to find structures that lie outside of
    the data: `athanor.select` picks them. Models that share a mistake agree, so a small deviation proves nothing.

    Parameters
    ----------
    models
        At least two wrapped models, all of which give an energy. Sums of models will do.

    Raises
    ------
    InputError
        If there are fewer than two, one stands there twice, one gives no energy, or they do not go together (half and
        full neighbour lists, periodic systems only and none).
    ContractError
        A `TypeError`, if something is no wrapped model.

    Notes
    -----
    The mean is given of every output that all members share but learned features. Beside it, and active unless
    ``model_config.active_outputs`` says otherwise, ``energy_deviation`` [B, 1] (eV), the standard deviation of the
    energy, and ``max_force_deviation`` [B, 1] (eV/Å), the largest ``force_deviation`` of a system. That one [N] is the
    deviation of each atom, on request,

    .. math:: \epsilon_i = \Big[\frac{1}{M} \sum_m |F_{m,i} - \langle F_i\rangle|^2\Big]^{1/2}

    as DP-GEN defines it. Squares are divided by M, not by M - 1. Energies of models that were fitted to different
    references differ by a constant for each element, which the energy deviation contains; forces know no such constant.

    One list at the largest cutoff serves all; members with one cutoff share the graph that is made of it. A call is one
    forward and one backward pass of each. Results are detached unless a member trains or the positions carry a graph;
    in an autograd group of a pipeline the mean energy is differentiated once, and deviations carry no derivative.
    Embeddings are those of the first member.

    References
    ----------
    .. [1] Y. Zhang et al., Comput. Phys. Commun. 253, 107206 (2020). doi:10.1016/j.cpc.2020.107206

    Examples
    --------
    >>> from athanor.models import CommitteeModelWrapper, LennardJonesModelWrapper
    >>> members = [LennardJonesModelWrapper(epsilon=e, sigma=3.4, cutoff=8.5) for e in (0.0100, 0.0104, 0.0108)]
    >>> sorted(CommitteeModelWrapper(members).model_config.active_outputs)
    ['energy', 'energy_deviation', 'forces', 'max_force_deviation']
    """

    def __init__(self, models: Sequence[BaseModelMixin]) -> None:
        super().__init__()
        self.members = nn.ModuleList(_checked(models))
        self.training = any(member._trains for member in self._members)
        shared = frozenset.intersection(*(member.model_config.outputs for member in self._members))
        self._shared = shared - DEVIATIONS - _FEATURES
        deviations = DEVIATIONS if "forces" in shared else DEVIATIONS - OF_FORCES
        self.model_config, card = _as_one(self._members, self._shared, deviations)
        self.model_card = replace(
            card,
            citation="; ".join(filter(None, (card.citation, _DEVIATION))),
            name=f"committee of {len(self.members)}: {', '.join(_counted(list(map(name_of, self._members))))}",
            weights_digest="; ".join(member.model_card.weights_digest for member in self._members).strip("; "),
        )

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Move or convert the models, as `to` does; the card tells the precision that they then compute in."""
        super()._apply(fn, recurse)
        self.model_card = replace(self.model_card, dtype=common_dtype(each.model_card for each in self._members))
        return self

    @classmethod
    def from_members(
        cls,
        members: Sequence[Any],
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        *,
        trust: bool = False,
    ) -> CommitteeModelWrapper:
        """Build a committee of models by name.

        Parameters
        ----------
        members
            Each a name as `athanor.models.get` takes it, a mapping of a name and arguments such as ``{"name": "mace",
            "checkpoint_path": "first.model"}``, or a wrapped model.
        device, dtype
            For all members by name that take it and do not say it themselves.
        trust
            Whether to load files of members that are whole pickles, which can run anything.

        Raises
        ------
        InputError
            If `members` is no list, or there is no model of a name; as the class says. `ArgumentError` if an argument
            is missing or unknown.

        Examples
        --------
        >>> import athanor.models
        >>> argon = {"name": "lennard-jones", "sigma": 3.4, "cutoff": 8.5}
        >>> members = [{**argon, "epsilon": 0.0100}, {**argon, "epsilon": 0.0108}]
        >>> len(athanor.models.get("committee", members=members).members)
        2
        """
        if isinstance(members, str | Mapping) or not isinstance(members, Sequence):
            raise InputError(
                f"`members` is a {type(members).__name__}; give a list of at least two models, such as "
                f"[chgnet, chgnet-r2scan]."
            )
        options = {"device": device, "dtype": dtype, "trust": trust or None}
        common = {name: value for name, value in options.items() if value is not None}
        return cls([registry.from_description(member, common) for member in members])

    @property
    def _members(self) -> list[Any]:
        return list(self.members)

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Those of the first member that has some."""
        return next((member.embedding_shapes for member in self._members if member.embedding_shapes), {})

    def compute_embeddings(self, data: AtomicData | Batch, **kwargs: Any) -> AtomicData | Batch:
        """Write the embeddings of the first member that has some to `data`.

        Raises
        ------
        NotAvailableError
            A `NotImplementedError`, if no member has any.
        """
        for member in self._members:
            if member.embedding_shapes:
                return member.compute_embeddings(data, **kwargs)
        raise NotAvailableError(f"{self.model_card.name} has no embeddings.")

    def configurations(self) -> list[ModelConfig]:
        """Return the configurations of the committee and of all its members."""
        return [self.model_config, *(config for member in self._members for config in member.configurations())]

    def _view_of(self, value: Any) -> Any:
        return value  # each member takes a view of its own

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of a batch, or of one structure."""
        batch = data if isinstance(data, Batch) else Batch.from_data_list([data])
        for key in sorted(self.model_config.gradient_keys):
            batch[key].requires_grad_(True)
        wanted = self.output_data()
        asked = _asked_of_members(wanted)
        with sharing_prepared():
            parts = [_outputs_of(member, batch, asked) for member in self._members]
        outputs = self._combined(parts, batch, wanted)
        keep_graph = (self._trains and torch.is_grad_enabled()) or carries_graph(batch)
        return OrderedDict((key, outputs[key] if keep_graph else outputs[key].detach()) for key in sorted(wanted))

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the mean energy, attached, and what else is wanted; see `BaseModelMixin.attached_energy`."""
        wanted = ({"energy", *wanted} & self.model_config.outputs) - DERIVATIVES
        by_forces = wanted & OF_FORCES
        if not by_forces:
            with sharing_prepared():
                parts = self._attached(data, strain, wanted)
            return self._combined(parts, data, wanted)
        with torch.inference_mode(False), torch.enable_grad(), sharing_prepared():
            if not data.positions.requires_grad:
                data = data.shallow_view()
                leaves(data, {"forces"})
            parts = self._attached(data, strain, wanted - by_forces)
            for member, part in zip(self._members, parts, strict=True):
                check_attached(member, energy := part["energy"])
                (gradient,) = torch.autograd.grad(energy, data.positions, torch.ones_like(energy), retain_graph=True)
                part["forces"] = -gradient
        return self._combined(parts, data, wanted)

    def _attached(self, data: Any, strain: torch.Tensor | None, wanted: Set[str]) -> list[dict[str, torch.Tensor]]:
        asked = _asked_of_members(wanted)
        return [
            dict(checked_outputs(member, data, dict(member.attached_energy(data, strain, asked)), {"energy"}))
            for member in self._members
        ]

    def _combined(
        self, parts: Sequence[Mapping[str, torch.Tensor]], batch: Any, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return what is wanted of a committee whose members gave `parts`."""
        found = {name: mean_of([part[name] for part in parts]) for name in sorted(wanted & self._shared)}
        if "energy_deviation" in wanted:
            found["energy_deviation"] = energy_deviation([part["energy"] for part in parts])
        if wanted & OF_FORCES:
            of_atoms = force_deviation([part["forces"].detach() for part in parts])
            found |= {"force_deviation": of_atoms} if "force_deviation" in wanted else {}
            if "max_force_deviation" in wanted:
                found["max_force_deviation"] = segment_max(of_atoms, batch.batch_ptr).unsqueeze(1)
        return found

    def extra_repr(self) -> str:
        """Show what is active."""
        return f"active_outputs={sorted(self.model_config.active_outputs or ())}"


def _checked(models: Sequence[Any]) -> list[Any]:
    """Return the members, if they can be a committee."""
    models = list(models)
    for place, model in enumerate(models):
        if not isinstance(model, BaseModelMixin):
            raise ContractError(
                f"`models[{place}]` is a {type(model).__name__}; pass wrapped models, as `athanor.models.get(...)` "
                f"returns them, or names to `CommitteeModelWrapper.from_members`."
            )
        if "energy" not in model.model_config.outputs:
            raise InputError(f"`models[{place}]`, {name_of(model)}, gives no energy, so it has no part in a mean.")
        twin = next((other for other in range(place) if models[other] is model), None)
        if twin is not None:
            raise InputError(
                f"`models[{twin}]` and `models[{place}]` are the same {name_of(model)}, which will agree with itself. "
                f"Give models with parameters of their own."
            )
    if len(models) < 2:
        raise InputError(f"A committee of {len(models)} can not disagree; give at least two models.")
    return models


def _as_one(models: Sequence[Any], shared: frozenset[str], deviations: frozenset[str]) -> tuple[ModelConfig, ModelCard]:
    """Return what models can do that know nothing of each other, as far as all can, and what holds for all."""
    groups = [PipelineGroup([model]) for model in models]
    everything = frozenset().union(*(model.model_config.outputs for model in models))
    plan = make_plan(groups, range(len(models)), everything)
    config = config_of(plan, everything)
    active = (config.active_outputs or set()) & shared
    return ModelConfig(
        **{name: value for name, value in config if name not in _OF_OUTPUTS},
        outputs=shared | deviations,
        autograd_outputs=config.autograd_outputs & shared,
        output_levels={name: level for name, level in config.output_levels.items() if name in shared},
        active_outputs=active | {"energy_deviation", *({"max_force_deviation"} & deviations)},
    ), card_of(plan)


_OF_OUTPUTS = frozenset({"outputs", "autograd_outputs", "output_levels", "active_outputs"})


def _asked_of_members(wanted: Set[str]) -> set[str]:
    """Return what members have to compute for what is wanted of the committee."""
    return (set(wanted) - DEVIATIONS) | {"energy"} | ({"forces"} if wanted & OF_FORCES else set())


def _outputs_of(member: Any, batch: Batch, asked: Set[str]) -> Mapping[str, torch.Tensor]:
    with asking_for(member, asked):
        return checked_outputs(member, batch, member(batch), asked)


def _counted(names: Sequence[str]) -> list[str]:
    """Return each name once, with how often it stands there."""
    return [name if (times := names.count(name)) == 1 else f"{times} x {name}" for name in dict.fromkeys(names)]
