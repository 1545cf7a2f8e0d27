"""The gated perceptron of CHGNet and its sum over pairs or angles, computed in blocks that fit the cache.

Every convolution applies one gated perceptron to concatenated features of atoms, bonds and angles. Its first linear
map acts on each part separately (``W [x; y] = W_x x + W_y y``), so it is done once per atom and once per bond before
anything is expanded to pairs; what remains per row is a sum of gathered rows. The backward pass computes a block
again instead of keeping it: memory grows with atoms and bonds, not with layers times pairs. Second derivatives go
through the plain formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from athanor.errors import NotAvailableError

CPU_BLOCK_ROWS = 2048
"""Rows of a block on CPU; 2048 rows of 128 floats are 1 MB."""
DEVICE_BLOCK_ROWS = 1 << 19
"""Rows of a block on other devices."""

_LAYER_NORM_EPS = 1e-5


class GatedPerceptron(nn.Module):
    r"""The gated perceptron after its first linear map, :math:`x = [x_1; x_2]` of width 2H.

    .. math:: f(x) = \mathrm{silu}(N_1(C(x_1)))\;\sigma(N_2(G(x_2)))

    where :math:`C(x) = W_C\,\mathrm{silu}(x) + b_C` if there is a hidden layer, else the identity, likewise G, and N
    is layer normalisation, or nothing. Parameters are buffers: this is for inference.

    Parameters
    ----------
    state
        Tensors of the checkpoint.
    prefix
        Name of the perceptron in `state`.
    parts
        Names of the parts of the input, in the order of the checkpoint; all parts are equally wide. The linear map
        of each becomes ``map_<part>``, [width, 2H].
    """

    bias: torch.Tensor
    map_dense: torch.Tensor

    def __init__(self, state: dict[str, torch.Tensor], prefix: str, parts: tuple[str, ...]) -> None:
        super().__init__()
        start = f"{prefix}.mlp_core.layers."
        weights = [key for key in state if key.startswith(start) and key.endswith("weight")]
        layers = sorted(int(key[len(start) :].split(".")[0]) for key in weights)
        sides = ("mlp_core", "mlp_gate")
        weight = torch.cat([state[f"{prefix}.{side}.layers.{layers[0]}.weight"] for side in sides])
        for part, columns in zip(parts, weight.t().chunk(len(parts)), strict=True):
            self.register_buffer(f"map_{part}", columns.contiguous())
        self.register_buffer("bias", torch.cat([state[f"{prefix}.{side}.layers.{layers[0]}.bias"] for side in sides]))
        self.is_hidden = len(layers) > 1
        self.is_normalized = f"{prefix}.bn1.weight" in state
        for side, norm, name in (("mlp_core", "bn1", "core"), ("mlp_gate", "bn2", "gate")):
            if self.is_hidden:
                second = f"{prefix}.{side}.layers.{layers[1]}"
                self.register_buffer(f"{name}_map", state[f"{second}.weight"].t().contiguous())
                self.register_buffer(f"{name}_bias", state[f"{second}.bias"].clone())
            if self.is_normalized:
                self.register_buffer(f"{name}_scale", state[f"{prefix}.{norm}.weight"].clone())
                self.register_buffer(f"{name}_shift", state[f"{prefix}.{norm}.bias"].clone())

    def _branch(self, name: str, x: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """Return what enters the last activation of one branch, and what its derivative needs."""
        if self.is_hidden:
            x = torch.addmm(getattr(self, f"{name}_bias"), x, getattr(self, f"{name}_map"))
        if not self.is_normalized:
            return x, ()
        scale, shift = getattr(self, f"{name}_scale"), getattr(self, f"{name}_shift")
        y, mean, rstd = torch.native_layer_norm(x, [x.shape[1]], scale, shift, _LAYER_NORM_EPS)
        return y, (x, mean, rstd, scale, shift)

    def _branch_backward(
        self, name: str, gradient: torch.Tensor, saved: tuple[torch.Tensor, ...], out: torch.Tensor
    ) -> None:
        """Write the gradient with respect to the input of `_branch` to `out`."""
        if saved:
            x, mean, rstd, scale, shift = saved
            gradient = torch.ops.aten.native_layer_norm_backward(
                gradient, x, [x.shape[1]], mean, rstd, scale, shift, [True, False, False]
            )[0]
        if self.is_hidden:
            torch.mm(gradient, getattr(self, f"{name}_map").t(), out=out)
        else:
            out.copy_(gradient)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return f(x) [rows, H]; differentiable."""
        core, gate = (torch.nn.functional.silu(x) if self.is_hidden else x).chunk(2, dim=1)
        return torch.nn.functional.silu(self._branch("core", core)[0]) * torch.sigmoid(self._branch("gate", gate)[0])

    def evaluate(self, x: torch.Tensor) -> torch.Tensor:
        """Return f(x) [rows, H] faster; `x` [rows, 2H] is overwritten."""
        if self.is_hidden:
            torch.nn.functional.silu(x, inplace=True)
        core, gate = x.chunk(2, dim=1)
        core, gate = self._branch("core", core)[0], self._branch("gate", gate)[0]
        if core.data_ptr() == x.data_ptr():
            return torch.nn.functional.silu(core).mul_(torch.sigmoid(gate))
        return torch.nn.functional.silu(core, inplace=True).mul_(gate.sigmoid_())

    def evaluate_backward(
        self, x: torch.Tensor, gradient: torch.Tensor, weight: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Differentiate ``(f(x) * weight) . gradient``; return the gradients of `x` [rows, 2H] and `weight`."""
        hidden, hidden_slope = _silu_and_slope(x) if self.is_hidden else (x, None)
        core, gate = hidden.chunk(2, dim=1)
        core, core_saved = self._branch("core", core)
        gate, gate_saved = self._branch("gate", gate)
        (core_value, slope), gate_value = _silu_and_slope(core), torch.sigmoid(gate)
        weight_gradient = None
        if weight is not None:
            weight_gradient = (core_value * gate_value).mul_(gradient)
            gradient = gradient * weight
        out = torch.empty_like(x)
        core_out, gate_out = out.chunk(2, dim=1)
        self._branch_backward("core", slope.mul_(gate_value).mul_(gradient), core_saved, core_out)
        gate_gradient = torch.ops.aten.sigmoid_backward(core_value.mul_(gradient), gate_value)
        self._branch_backward("gate", gate_gradient, gate_saved, gate_out)
        return (out if hidden_slope is None else out.mul_(hidden_slope)), weight_gradient


def _silu_and_slope(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return silu(x) and its derivative with one exponential: s = sigmoid(x), x s and s + x s (1 - s)."""
    sigmoid = torch.sigmoid(x)
    value = x * sigmoid
    slope = torch.addcmul(sigmoid + value, value, sigmoid, value=-1.0)
    return value, slope


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Which rows of which tables make the rows of a message.

    Parameters
    ----------
    table_rows
        One int64 [R] per table.
    weight_row
        int64 [R], row of the weight that multiplies each message; ``None``: no weight.
    sum_row
        int64 [R], where each message is added; ``None``: messages are returned as they are.
    num_sums
        Rows of the result if messages are added.
    """

    table_rows: tuple[torch.Tensor, ...]
    weight_row: torch.Tensor | None = None
    sum_row: torch.Tensor | None = None
    num_sums: int = 0


def gated_rows(
    gate: GatedPerceptron,
    plan: RowPlan,
    tables: tuple[torch.Tensor, ...],
    *,
    dense: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Evaluate a gated perceptron on sums of gathered rows, weight it and add up.

    .. math:: m_r = f\Big(\sum_t T_t[a_t(r)] + M d_r\Big) \odot w[b(r)], \qquad s_k = \sum_{r:\, c(r) = k} m_r

    Parameters
    ----------
    gate
        f and, for `dense`, its ``map_dense`` M.
    plan
        a, b and c.
    tables
        [n_t, 2H] each. Differentiable, as are `dense` and `weight`.
    dense
        [R, width], the part of the input that differs in every row.
    weight
        [n_w, H].

    Returns
    -------
    torch.Tensor
        [num_sums, H], or [R, H] without ``plan.sum_row``.
    """
    return _GatedRows.apply(gate, plan, dense, weight, *tables)


def _blocks(plan: RowPlan) -> list[slice]:
    rows = plan.table_rows[0]
    size = CPU_BLOCK_ROWS if rows.device.type == "cpu" else DEVICE_BLOCK_ROWS
    return [slice(start, min(start + size, rows.shape[0])) for start in range(0, rows.shape[0], size)]


def _input_rows(
    gate: GatedPerceptron, plan: RowPlan, block: slice, dense: torch.Tensor | None, tables: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    x = tables[0].index_select(0, plan.table_rows[0][block])
    for table, rows in zip(tables[1:], plan.table_rows[1:], strict=True):
        x.add_(table.index_select(0, rows[block]))
    return x if dense is None else x.addmm_(dense[block], gate.map_dense)


class _GatedRows(torch.autograd.Function):
    """`gated_rows` with a backward pass that computes each block again."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: GatedPerceptron,
        plan: RowPlan,
        dense: torch.Tensor | None,
        weight: torch.Tensor | None,
        *tables: torch.Tensor,
    ) -> torch.Tensor:
        ctx.gate, ctx.plan = gate, plan
        ctx.save_for_backward(dense, weight, *tables)
        width = tables[0].shape[1] // 2
        num_rows = plan.table_rows[0].shape[0] if plan.sum_row is None else plan.num_sums
        out = tables[0].new_zeros(num_rows, width)
        for block in _blocks(plan):
            message = gate.evaluate(_input_rows(gate, plan, block, dense, tables))
            if weight is not None and plan.weight_row is not None:
                message.mul_(weight.index_select(0, plan.weight_row[block]))
            if plan.sum_row is None:
                out[block] = message
            else:
                out.index_add_(0, plan.sum_row[block], message)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[Any, ...]:
        _check_not_vectorized(gradient)
        return None, None, *_Gradient.apply(ctx.gate, ctx.plan, ctx.needs_input_grad[2:], gradient, *ctx.saved_tensors)


class _Gradient(torch.autograd.Function):
    """The gradient of `gated_rows`, as fast whether or not somebody means to differentiate it again.

    Who does goes through the plain formula, to any order and without blocks: memory grows with the rows of one call.
    """

    @staticmethod
    def forward(
        ctx: Any,
        gate: GatedPerceptron,
        plan: RowPlan,
        needed: tuple[bool, ...],
        gradient: torch.Tensor,
        dense: torch.Tensor | None,
        weight: torch.Tensor | None,
        *tables: torch.Tensor,
    ) -> tuple[torch.Tensor | None, ...]:
        ctx.gate, ctx.plan, ctx.needed = gate, plan, needed
        ctx.save_for_backward(gradient, dense, weight, *tables)
        dense_gradient = torch.empty_like(dense) if dense is not None and needed[0] else None
        weight_gradient = torch.zeros_like(weight) if weight is not None and needed[1] else None
        table_gradients = [
            torch.zeros_like(table) if wanted else None for table, wanted in zip(tables, needed[2:], strict=True)
        ]
        for block in _blocks(plan):
            x = _input_rows(gate, plan, block, dense, tables)
            weight_rows = None if plan.weight_row is None else plan.weight_row[block]
            row_weight = None if weight is None or weight_rows is None else weight.index_select(0, weight_rows)
            of_messages = gradient[block] if plan.sum_row is None else gradient.index_select(0, plan.sum_row[block])
            x_gradient, row_weight_gradient = gate.evaluate_backward(x, of_messages, row_weight)
            for total, rows in zip(table_gradients, plan.table_rows, strict=True):
                if total is not None:
                    total.index_add_(0, rows[block], x_gradient)
            if weight_gradient is not None and weight_rows is not None and row_weight_gradient is not None:
                weight_gradient.index_add_(0, weight_rows, row_weight_gradient)
            if dense_gradient is not None:
                torch.mm(x_gradient, gate.map_dense.t(), out=dense_gradient[block])
        return dense_gradient, weight_gradient, *table_gradients

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor | None) -> tuple[Any, ...]:
        _check_not_vectorized(*outer)
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            # as nodes of their own, so that a derivative by one does not go through what another was computed from
            saved: list[Any] = [None if each is None else each.view_as(each) for each in ctx.saved_tensors]
            gradient, *inputs = saved
            chosen = [each for each, needed in zip(inputs, ctx.needed, strict=True) if needed]
            first = torch.autograd.grad(
                plain_gated_rows(ctx.gate, ctx.plan, *inputs), chosen, gradient, create_graph=True
            )
            places = [place for place, needed in enumerate(ctx.needs_input_grad[3:]) if needed]
            second = torch.autograd.grad(
                first,
                [saved[place] for place in places],
                [each for each, needed in zip(outer, ctx.needed, strict=True) if needed],
                create_graph=again,
                allow_unused=True,
            )
        found = dict(zip(places, second, strict=True))
        return None, None, None, *(found.get(place) for place in range(len(saved)))


def _check_not_vectorized(*gradients: torch.Tensor | None) -> None:
    """Refuse many directions at once, as ``vectorize=True`` means, which would come to an end deep inside of torch."""
    if any(each is not None and torch._C._functorch.is_legacy_batchedtensor(each) for each in gradients):
        raise NotAvailableError(
            "CHGNet is differentiated in one direction at a time. Leave out `vectorize=True` or "
            "`is_grads_batched=True`, or call `athanor.models.hessian(model, batch)`."
        )


def plain_gated_rows(
    gate: GatedPerceptron,
    plan: RowPlan,
    dense: torch.Tensor | None,
    weight: torch.Tensor | None,
    *tables: torch.Tensor,
) -> torch.Tensor:
    """Return what `gated_rows` does, by operations of torch on all rows at once."""
    rows = zip(tables, plan.table_rows, strict=True)
    x = sum(table.index_select(0, row) for table, row in rows)
    message = gate(x if dense is None else x + dense @ gate.map_dense)
    if weight is not None and plan.weight_row is not None:
        message = message * weight.index_select(0, plan.weight_row)
    if plan.sum_row is None:
        return message
    return message.new_zeros(plan.num_sums, message.shape[1]).index_add(0, plan.sum_row, message)
