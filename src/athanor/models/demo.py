"""DemoModel and DemoModelWrapper: a small network for tests and tutorials, and the worked example of a wrapper.

The network is not invariant under translation or rotation; its numbers mean nothing.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor.data.batch import Batch
from athanor.data.elements import MAX_ATOMIC_NUMBER
from athanor.errors import InputError, MissingFieldError
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.derivatives import autograd_forces, carries_graph, strained_view
from athanor.models.mixin import BaseModelMixin
from athanor.models.tensor_file import read_tensor_file, write_tensor_file

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor._typing import ModelOutputs
    from athanor.data.atomic_data import AtomicData

_FORMAT = "athanor-demo-model"


class DemoModel(nn.Module):
    """A network from atomic numbers and positions to an energy.

    Parameters
    ----------
    num_atom_types
        Atomic numbers below this can be embedded.
    hidden_dim
        Width H of the network.
    """

    def __init__(self, num_atom_types: int = 100, hidden_dim: int = 64) -> None:
        super().__init__()
        self.num_atom_types = num_atom_types
        self.hidden_dim = hidden_dim
        self.embedding = nn.Embedding(num_atom_types, hidden_dim, padding_idx=0, max_norm=1.0)
        self.coord_embedding = nn.Sequential(nn.Linear(3, hidden_dim, bias=False), nn.LayerNorm(hidden_dim), nn.SiLU())
        self.joint_mlp = nn.Sequential(
            nn.Linear(2 * hidden_dim, hidden_dim),
            nn.LayerNorm(hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, hidden_dim),
        )
        self.projection = nn.Linear(hidden_dim, 1)

    def node_features(self, atomic_numbers: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Return the features of each atom, [N, H]."""
        element = self.embedding(atomic_numbers)
        place = self.coord_embedding(positions)
        return element + place + self.joint_mlp(torch.cat([element, place], dim=-1))

    def forward(
        self,
        atomic_numbers: torch.Tensor,
        positions: torch.Tensor,
        batch_indices: torch.Tensor | None = None,
        compute_forces: bool = True,
    ) -> dict[str, torch.Tensor]:
        """Return ``energy`` [B, 1] and, if asked for, ``forces`` [N, 3].

        Parameters
        ----------
        atomic_numbers
            [N].
        positions
            [N, 3] in the dtype of the network; must require grad if `compute_forces`.
        batch_indices
            [N], system of each atom; ``None`` for one system.
        compute_forces
            Whether to differentiate.
        """
        atom_energy = self.projection(self.node_features(atomic_numbers, positions))
        if batch_indices is None:
            energy = atom_energy.sum(dim=0, keepdim=True)
        else:
            num_graphs = int(batch_indices.max()) + 1
            energy = atom_energy.new_zeros(num_graphs, 1).index_add(0, batch_indices, atom_energy)
        output = {"energy": energy}
        if compute_forces:
            output["forces"] = autograd_forces(energy, positions, training=self.training)
        return output


class DemoModelWrapper(nn.Module, BaseModelMixin):
    """`DemoModel` behind the common interface.

    Parameters
    ----------
    model
        The network. Inputs are converted to its dtype, results are in it.
    weights_digest
        Digest of the parameters for the card.

    Notes
    -----
    In eval mode results are detached unless the positions handed in carry a graph already (as in a Hessian closure);
    in training mode they stay attached.

    Examples
    --------
    >>> from athanor.models.demo import DemoModel, DemoModelWrapper
    >>> DemoModelWrapper(DemoModel(hidden_dim=8)).embedding_shapes["node_embeddings"]
    (8,)
    """

    def __init__(self, model: DemoModel, *, weights_digest: str = "") -> None:
        super().__init__()
        self.model = model
        self.model_config = ModelConfig(outputs=frozenset({"energy", "forces"}), autograd_outputs=frozenset({"forces"}))
        self.model_card = ModelCard(
            name="Demo",
            elements=frozenset(range(1, min(model.num_atom_types, MAX_ATOMIC_NUMBER + 1))),
            conservative=True,
            equivariant=False,
            smooth=True,
            batch_invariance="no",
            licence="Apache-2.0",
            weights_digest=weights_digest,
        )

    @property
    def dtype(self) -> torch.dtype:
        """dtype of the network."""
        return self.model.projection.weight.dtype

    @property
    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """``node_embeddings`` and ``graph_embedding`` (the field is ``graph_embeddings``), of the network's width."""
        return {"node_embeddings": (self.model.hidden_dim,), "graph_embedding": (self.model.hidden_dim,)}

    def adapt_input(self, data: AtomicData | Batch, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of `DemoModel`."""
        inputs = super().adapt_input(data, **kwargs)
        return {
            "atomic_numbers": inputs["atomic_numbers"],
            "positions": inputs["positions"].to(self.dtype),
            "batch_indices": data.batch_idx if isinstance(data, Batch) else None,
            "compute_forces": "forces" in self.output_data(),
        }

    def adapt_output(self, model_output: Any, data: AtomicData | Batch) -> ModelOutputs:
        """Map the outputs of `DemoModel`; a requested one that is absent is a `KeyError`."""
        outputs = super().adapt_output(model_output, data)
        for key, value in outputs.items():
            if value is None:
                raise MissingFieldError(
                    f"`{key}` was requested and is not in the output of {type(self.model).__name__}."
                )
        return outputs

    def compute_embeddings(self, data: AtomicData | Batch, **kwargs: Any) -> AtomicData | Batch:
        """Write ``node_embeddings`` [N, H] and ``graph_embeddings`` [B, H] to `data`."""
        with torch.inference_mode(False), torch.set_grad_enabled(carries_graph(data)):
            features = self.model.node_features(data.atomic_numbers, data.positions.to(self.dtype))
            if isinstance(data, Batch):
                batch_idx, num_graphs = data.batch_idx, data.num_graphs
            else:
                batch_idx, num_graphs = torch.zeros_like(data.atomic_numbers, dtype=torch.int64), 1
            sums = features.new_zeros(num_graphs, features.shape[1]).index_add(0, batch_idx, features)
        with data.keeping_results_fresh() if isinstance(data, Batch) else nullcontext():
            data.node_embeddings, data.graph_embeddings = features, sums
        return data

    def forward(self, data: AtomicData | Batch, **kwargs: Any) -> ModelOutputs:
        """Return the active outputs of `data`; works under ``no_grad`` and ``inference_mode`` too."""
        return self.outputs_by_autograd(data)

    def attached_energy(
        self, data: AtomicData | Batch, strain: torch.Tensor | None, wanted: Set[str]
    ) -> dict[str, torch.Tensor]:
        """Return the energy of the network, attached; see `BaseModelMixin.attached_energy`."""
        inputs = self.adapt_input(strained_view(data, strain))
        return self.model(**{**inputs, "compute_forces": False})

    def export_model(self, path: Path, as_state_dict: bool = False) -> None:
        """Write the network to `path`; `from_checkpoint` reads both forms.

        Parameters
        ----------
        path
            File to write.
        as_state_dict
            Write the parameters alone; else sizes and parameters. Neither is a pickle of code.

        Raises
        ------
        StorageError
            If the file can not be written.
        """
        state = self.model.state_dict()
        if not as_state_dict:
            sizes = {"num_atom_types": self.model.num_atom_types, "hidden_dim": self.model.hidden_dim}
            state = {"format": _FORMAT, "config": sizes, "state_dict": state}
        write_tensor_file(path, state)

    @classmethod
    def from_checkpoint(cls, checkpoint_path: Path | str, *, trust: bool = False) -> DemoModelWrapper:
        """Read what `export_model` wrote.

        Parameters
        ----------
        checkpoint_path
            File to read.
        trust
            Also accept a pickled `DemoModel`. A pickle can run any code: say so only for files you made yourself.

        Raises
        ------
        InputError
            If the file is missing or damaged, or holds neither all parameters nor, with `trust`, a `DemoModel`.
        """
        content, digest = read_tensor_file(Path(checkpoint_path), trust=trust)
        if isinstance(content, DemoModel):
            return cls(content, weights_digest=digest)
        if not isinstance(content, dict) or not ({"state_dict", "embedding.weight"} & set(content)):
            raise InputError(f"`{checkpoint_path}` holds no DemoModel. Write one with `export_model(path)`.")
        state = content.get("state_dict", content)
        try:
            num_atom_types, hidden_dim = state["embedding.weight"].shape
            model = DemoModel(num_atom_types, hidden_dim).to(state["embedding.weight"].dtype)
            model.load_state_dict(state)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())
            raise InputError(f"`{checkpoint_path}` holds no whole DemoModel: {why}.") from error
        if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
            raise InputError(f"`{checkpoint_path}` holds NaN or infinity. Write it again with `export_model(path)`.")
        return cls(model, weights_digest=digest)


def build_demo_model(num_atom_types: int = 100, hidden_dim: int = 64, seed: int = 0) -> DemoModelWrapper:
    """Return a demo model with random parameters drawn from `seed`, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DemoModel(num_atom_types, hidden_dim)
    return DemoModelWrapper(model).eval()
