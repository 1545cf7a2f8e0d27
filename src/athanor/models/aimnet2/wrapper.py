"""AIMNet2Wrapper: the interface between an AIMNet2 network and a Batch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from athanor._values import unknown_keyword, usable_device
from athanor.errors import InputError
from athanor.models.aimnet2.network import NetworkFacts, load_network
from athanor.models.card import ModelCard
from athanor.models.config import ModelConfig
from athanor.models.learned import DERIVATIVES, EMBEDDINGS, LearnedModel
from athanor.models.network_blocks import PAIRS_AT_A_TIME
from athanor.models.tensor_file import write_tensor_file
from athanor.neighbors.config import NeighborConfig, NeighborListFormat

if TYPE_CHECKING:
    from collections.abc import Set

    from athanor.models.network_graph import NetworkGraph


class AIMNet2Wrapper(LearnedModel):
    """AIMNet2, a network for neutral and charged molecules that predicts charges, for whole batches.

    It is one term of a sum: most of its networks were trained together with the Coulomb energy of their charges and a
    D3(BJ) dispersion, which are models of their own here. `aimnet2_potential` puts them together.

    Parameters
    ----------
    model
        A network of the aimnet package, without parts that sum over all pairs.
    compile_model
        Compile it with `torch.compile`, its parameters frozen: the first calls take minutes, and there are no second
        derivatives.
    compile_kwargs
        Arguments of `torch.compile`.
    train
        Whether its parameters are to be trained; ``None``: as they come, but frozen if compiled.
    weights_digest
        Digest of the parameters for the card.

    Attributes
    ----------
    needs_coulomb
        Whether its energy lacks the Coulomb sum of its charges.
    d3_parameters
        ``a1``, ``a2`` (bohr), ``s8`` and ``s6`` of the D3(BJ) term that its energy lacks; empty if it lacks none.

    Raises
    ------
    ContractError
        If `model` is no such network.
    InputError
        If it sums over all pairs itself, or is to be trained and compiled.

    Notes
    -----
    Computes energy, forces and charges (e) unless ``model_config.active_outputs`` says otherwise; stress,
    node_embeddings and graph_embeddings can be added, and for open shells (NSE) spin_charges. Reads ``charge``, and for
    open shells ``spin``, the multiplicity; 0 and 1 where absent. The network computes in float32, whatever the
    positions are. Needs a full neighbour list of at least its cutoff.

    References
    ----------
    .. [1] D. Anstine, R. Zubatyuk, O. Isayev, Chem. Sci. 16, 10228 (2025). doi:10.1039/D4SC08572H
    """

    pairs_at_a_time = PAIRS_AT_A_TIME

    def __init__(
        self,
        model: nn.Module,
        *,
        compile_model: bool = False,
        compile_kwargs: Mapping[str, Any] | None = None,
        train: bool | None = None,
        weights_digest: str = "",
    ) -> None:
        if compile_model and train:
            raise InputError("A compiled network can not be trained; leave out `compile_model` or `train`.")
        facts = NetworkFacts.of(model)
        super().__init__(model, facts.elements, embedding_width=facts.width)
        self.needs_coulomb, self.d3_parameters = facts.needs_coulomb, dict(facts.d3_parameters)
        self._open_shell = facts.open_shell
        self._file: dict[str, Any] = {}  # what stands beside the parameters in the file it came from
        if compile_model or train is not None:
            for name, parameter in model.named_parameters():  # those of `aev` say where the basis functions are
                parameter.requires_grad_(bool(train) and not name.startswith("aev."))
        if compile_model:
            model.eval().compile(**{"fullgraph": True, **(compile_kwargs or {})})
        own = {"charges", "spin_charges"} if facts.open_shell else {"charges"}
        self.model_config = ModelConfig(
            outputs=frozenset({"energy", *own, *DERIVATIVES, *EMBEDDINGS}),
            autograd_outputs=DERIVATIVES,
            optional_inputs=frozenset({"charge", "spin"} if facts.open_shell else {"charge"}),
            supports_pbc=True,
            neighbor_config=NeighborConfig(cutoff=facts.cutoff, format=NeighborListFormat.MATRIX),
            output_levels={"spin_charges": "node"} if facts.open_shell else {},
            active_outputs={"energy", "forces", "charges"},
        )
        self.model_card = ModelCard(
            name="AIMNet2 (open shell)" if facts.open_shell else "AIMNet2",
            kind="molecules",
            elements=self.elements,
            dtype=torch.float32,
            conservative=True,
            equivariant=True,
            smooth=True,
            short_ranged=False,  # the total charge is shared out among all atoms of a system
            batch_invariance="no",
            citation="doi:10.1039/D4SC08572H",
            url="https://github.com/isayevlab/aimnetcentral",
            weights_digest=weights_digest,
        )

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint_path: Path | str,
        device: torch.device | str = "cpu",
        compile_model: bool = False,
        *,
        train: bool | None = None,
        trust: bool = False,
        **compile_kwargs: Any,
    ) -> AIMNet2Wrapper:
        """Load a network, in eval mode.

        Parameters
        ----------
        checkpoint_path
            A file that ``aimnet export`` or `export_model` wrote; or the name of a published network, such as
            ``"aimnet2"`` or ``"aimnet2nse"``, which aimnet downloads once and whose digest it checks.
        device
            Where to put it.
        compile_model, train
            As in the constructor.
        trust
            Whether to build what the file names even if it is not part of aimnet, which can run anything. Files hold
            tensors and text otherwise, and load without. Those of the first format, ``.jpt``, are programs and refused.
        **compile_kwargs
            Arguments of `torch.compile`.

        Raises
        ------
        InputError
            If an argument does not fit, there is no such file or name, or the file is damaged, holds something else,
            is of another format, or names other code and is not trusted.
        OptionalDependencyError
            If aimnet is not installed.
        """
        if compile_kwargs and not compile_model:
            known = ("compile_model", "device", "train", "trust")
            raise unknown_keyword(next(iter(compile_kwargs)), known, "AIMNet2Wrapper.from_checkpoint")
        place = usable_device(device)
        network, digest, rest = load_network(checkpoint_path, trust=trust)
        model = cls(
            network.to(place),
            compile_model=compile_model,
            compile_kwargs=compile_kwargs,
            train=train,
            weights_digest=digest,
        )
        model._file = rest
        return model.eval()

    def network_outputs(self, graph: NetworkGraph, wanted: Set[str]) -> Mapping[str, torch.Tensor | None]:
        """Return energy, charges and features; see `LearnedModel.network_outputs`."""
        found = self.model(self._padded(graph))
        outputs = {"energy": found["energy"], "charges": found["charges"], "node_embeddings": found["aim"]}
        if self._open_shell:
            outputs["spin_charges"] = found["spin_charges"]
        return {key: value if key == "energy" else value[:-1] for key, value in outputs.items()}

    def _padded(self, graph: NetworkGraph) -> dict[str, torch.Tensor]:
        """Return atoms and rows of neighbours as the network reads them, with an atom of no element at the end."""
        i, j = graph.edge_index
        atoms = graph.num_nodes
        counts = torch.bincount(i, minlength=atoms)
        place = torch.arange(len(i), device=i.device) - (counts.cumsum(0) - counts)[i]
        width = max(int(counts.max()), 1)
        rows = i.new_full((atoms + 1, width), atoms, dtype=torch.int32)
        rows[i, place] = j.to(torch.int32)
        inputs = {
            "coord": _with_one_more(graph.local_positions),
            "numbers": _with_one_more(graph.atomic_numbers),
            "mol_idx": torch.cat((graph.batch_idx, graph.batch_idx[-1:])),
            "charge": graph.label("charge"),
            "nbmat": rows,
        }
        if bool(graph.images.any()):
            inputs["cell"] = graph.cell
            inputs["shifts"] = graph.local_positions.new_zeros((atoms + 1, width, 3))
            inputs["shifts"][i, place] = graph.unit_shifts
        if self._open_shell:
            inputs["mult"] = graph.label("spin")
        return inputs

    def export_model(self, path: Path, as_state_dict: bool = False) -> None:
        """Write the network, without this interface.

        Parameters
        ----------
        path
            File to write.
        as_state_dict
            Write the parameters alone. Else a file that aimnet and `from_checkpoint` read, if the network came from
            one; one that came as an object is pickled as a whole.

        Raises
        ------
        StorageError
            If the file can not be written.
        """
        if as_state_dict or not self._file:
            super().export_model(path, as_state_dict)
            return
        write_tensor_file(path, {**self._file, "state_dict": self.model.state_dict()})


def _with_one_more(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat((rows, rows.new_zeros((1, *rows.shape[1:]))))
