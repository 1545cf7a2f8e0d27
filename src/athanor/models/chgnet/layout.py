"""Which tensors a CHGNet checkpoint holds, and of which shapes; what a checkpoint is compared with.

A network that is built from whatever a file happens to hold gives wrong numbers without a word where a tensor is
missing. So the arguments alone say which are there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from athanor.errors import InputError

Shapes = dict[str, tuple[int, ...]]

NUM_ELEMENTS = 94
"""Elements with an embedding, hydrogen to plutonium."""
_LARGEST = 4096
"""No width or number of layers of a network is beyond this; a damaged number is."""
_FIXED_ARGUMENTS = {
    "update_bond": True,
    "update_angle": True,
    "mlp_first": True,
    "non_linearity": "silu",
    "conv_norm": None,
}


def check_checkpoint(state: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another architecture, and one with a tensor missing, too many, misshapen or not finite.

    Parameters
    ----------
    state
        Tensors by the names of the chgnet package.
    arguments
        Arguments that the package builds its model with; what is absent has the package's default.

    Raises
    ------
    InputError
        With the name of the argument or tensor, what was expected and what came.
    """
    _check_arguments(arguments)
    expected = expected_shapes(arguments, mlp_out_bias="atom_conv_layers.0.mlp_out.layers.1.bias" in state)
    for names, what in ((expected.keys() - state.keys(), "lacks"), (state.keys() - expected.keys(), "has")):
        if names:
            more = "" if len(names) == 1 else f" and {len(names) - 1} more"
            raise InputError(
                f"The checkpoint {what} the tensor `{min(names, key=str)}`{more}, which does not go with its "
                f"`model_args`. Get the file again, or export it with the chgnet package."
            )
    for name, shape in expected.items():
        tensor = state[name]
        if not _is_of_shape(tensor, shape):
            found = f"{tensor.dtype} {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else type(tensor)
            raise InputError(f"`{name}` of the checkpoint is {found}; expected floating-point numbers {shape}.")
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"`{name}` of the checkpoint holds NaN or infinity. Get the file again.")


def _is_of_shape(tensor: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tuple(tensor.shape) == shape


def expected_shapes(arguments: Mapping[str, Any], *, mlp_out_bias: bool) -> Shapes:
    """Return name and shape of every tensor of a model.

    Parameters
    ----------
    arguments
        As in `check_checkpoint`.
    mlp_out_bias
        Whether the last linear map of a convolution has a bias, as in version 0.2.0; `arguments` do not say.
    """
    atom, bond, angle = (_size(arguments, f"{kind}_fea_dim", 64) for kind in ("atom", "bond", "angle"))
    radial, angular = _size(arguments, "num_radial", 31), _size(arguments, "num_angular", 31)
    layers, normalized = _size(arguments, "n_conv", 4), arguments.get("gMLP_norm", "layer") is not None
    shapes: Shapes = {
        "atom_embedding.embedding.weight": (NUM_ELEMENTS, atom),
        "bond_basis_expansion.rbf_expansion_ag.frequencies": (radial,),
        "bond_basis_expansion.rbf_expansion_bg.frequencies": (radial,),
        "angle_basis_expansion.fourier_expansion.frequencies": ((angular - 1) // 2,),
        "bond_embedding.weight": (bond, radial),
        "bond_weights_ag.weight": (atom, radial),
        "bond_weights_bg.weight": (bond, radial),
        "angle_embedding.weight": (angle, angular),
        "site_wise.weight": (1, atom),
        "site_wise.bias": (1,),
    }
    if arguments.get("composition_model", "MPtrj") is not None:
        shapes["composition_model.fc.weight"] = (1, NUM_ELEMENTS)
    if arguments.get("readout_norm", "layer") is not None:
        shapes |= {"readout_norm.weight": (atom,), "readout_norm.bias": (atom,)}
    in_bond_graph = 2 * bond + angle + atom
    for kind, gate, count, width, inputs, hidden in (
        ("atom_conv", "twoBody_atom", layers, atom, 2 * atom + bond, _size(arguments, "atom_conv_hidden_dim", 64, 0)),
        ("bond_conv", "twoBody_bond", layers - 1, bond, in_bond_graph, _size(arguments, "bond_conv_hidden_dim", 64, 0)),
        ("angle", "twoBody_bond", layers - 1, angle, in_bond_graph, _size(arguments, "angle_layer_hidden_dim", 0, 0)),
    ):
        for layer in range(count):
            start = f"{kind}_layers.{layer}"
            for side in ("mlp_core", "mlp_gate"):
                shapes |= _perceptron(f"{start}.{gate}.{side}", inputs, [hidden] if hidden else [], width)
            if normalized:
                names = [f"{start}.{gate}.{norm}.{part}" for norm in ("bn1", "bn2") for part in ("weight", "bias")]
                shapes |= dict.fromkeys(names, (width,))
            if kind != "angle":
                shapes |= _perceptron(f"{start}.mlp_out", width, [], width, bias=mlp_out_bias)
    return shapes | _perceptron("mlp", atom, _readout_widths(arguments), 1)


def _perceptron(name: str, inputs: int, hidden: list[int], outputs: int, *, bias: bool = True) -> Shapes:
    """Linear maps of a perceptron: an activation after each hidden one, and a dropout before the last."""
    places = [*range(0, 2 * len(hidden), 2), 2 * len(hidden) + 1]
    shapes: Shapes = {}
    for place, width in zip(places, [*hidden, outputs], strict=True):
        shapes[f"{name}.layers.{place}.weight"] = (width, inputs)
        if bias:
            shapes[f"{name}.layers.{place}.bias"] = (width,)
        inputs = width
    return shapes


def _readout_widths(arguments: Mapping[str, Any]) -> list[int]:
    given = arguments.get("mlp_hidden_dims", (64, 64, 64))
    widths = list(given) if isinstance(given, (list, tuple)) else [given] if given else []
    return [_whole("mlp_hidden_dims", width, 1) for width in widths]


def _size(arguments: Mapping[str, Any], name: str, default: int, at_least: int = 1) -> int:
    return _whole(name, arguments.get(name, default), at_least)


def _whole(name: str, value: Any, at_least: int) -> int:
    if type(value) is not int or not at_least <= value <= _LARGEST:
        raise InputError(
            f"`{name}` of the checkpoint is {value!r:.60}; expected a whole number from {at_least} to {_LARGEST}."
        )
    return value


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse a variant of the architecture that none of the shipped checkpoints uses."""
    for name, expected in _FIXED_ARGUMENTS.items():
        value = arguments.get(name, expected)
        if value != expected:
            raise InputError(f"`{name}` of the checkpoint is {value!r}; CHGNetWrapper supports {expected!r} only.")
    for name in ("gMLP_norm", "readout_norm"):
        if arguments.get(name, "layer") not in (None, "layer"):
            raise InputError(
                f"`{name}` of the checkpoint is {arguments[name]!r}; CHGNetWrapper supports 'layer' or None."
            )
    for name in ("atom_graph_cutoff", "bond_graph_cutoff", "cutoff_coeff"):
        value = arguments.get(name, 1)
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise InputError(f"`{name}` of the checkpoint is {value!r:.60}; expected a positive number.")
