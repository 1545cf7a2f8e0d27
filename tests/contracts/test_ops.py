"""Every numerical operation against its contract, and each check against a broken twin."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from athanor import kernels
from athanor.errors import NotAvailableError
from athanor.kernels.barostat import _reference as barostat_reference
from athanor.kernels.cell import _reference as cell_reference
from athanor.kernels.coulomb import op as coulomb
from athanor.kernels.dispersion import op as dispersion
from athanor.kernels.eam import op as embedded_atom
from athanor.kernels.ewald import op as ewald
from athanor.kernels.fire import _reference as fire_reference
from athanor.kernels.flow import _reference as flow_reference
from athanor.kernels.neighbor_displacement import _reference as displacement_reference
from athanor.kernels.neighbor_list import _reference as list_reference
from athanor.kernels.pairs import op as pair_potential
from athanor.kernels.pairs import pair_table
from athanor.kernels.philox import _reference as philox_reference
from athanor.kernels.pme import op as pme
from athanor.kernels.segment import _reference as segment_reference
from athanor.kernels.thermostat import _reference as thermostat_reference
from athanor.kernels.three_body import op as stillinger_weber
from athanor.models.dftd3.tables import load_dftd3_params, references_of
from athanor.models.eam.tables import cubic_pieces
from athanor.testing import op_contract as contract

RADIUS, CUTOFF = 3.0, 2.6
NAMES = ["segment_sum", "segment_max", "philox_uniform", "philox_normal", "build_neighbor_list", "minimum_distance"]
NAMES += ["needs_rebuild", "fire_sums", "fire_moves", "cell_shape", "strained"]
FORMS = [f"pair_potential {form}" for form in pair_potential.FORMS]
ENERGIES = [
    *FORMS,
    "embedded_atom",
    "stillinger_weber",
    "screened_coulomb",
    "finite_coulomb",
    "ewald_reciprocal",
    "charge_corrections",
]
ENERGIES += ["dftd3", "pme_reciprocal"]
NAMES += ENERGIES
ENSEMBLES = ["momentum_flow", "scaled", "nose_hoover_half_step", "rescaling_factor", "ornstein_uhlenbeck"]
ENSEMBLES += ["barostat_half_step", "barostat_drift"]
NAMES += ENSEMBLES
SIZES = (5, 0, 1, 60, 12)


def _lattice(n: int, generator: torch.Generator) -> torch.Tensor:
    grid = torch.cartesian_prod(*[torch.arange(4)] * 3).double()[:n] * 1.3
    return grid + 0.1 * torch.rand(n, 3, generator=generator, dtype=torch.float64)


def _systems(dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    systems = []
    for k, n in enumerate(SIZES):
        cell = torch.eye(3, dtype=torch.float64) * 5.4 + 0.4 * torch.rand(
            3, 3, generator=generator, dtype=torch.float64
        )
        positions = _lattice(n, generator)
        moved = positions + 0.02 * (k - 1) * torch.rand(n, 3, generator=generator, dtype=torch.float64)
        systems.append(
            {
                "positions": positions.to(dtype),
                "moved": moved.to(dtype),
                "cell": cell.to(dtype),
                "pbc": torch.tensor([True, k % 2 == 0, True]),
                "types": torch.arange(n, dtype=torch.int32) % 2,
                "charges": torch.linspace(-1.0, 1.2, n, dtype=dtype),
                "included": torch.tensor(k != 2),
                "open_axis": torch.tensor(k % 4 - 1),
                "mesh": torch.tensor([6 + k, 7, 12 - k]),
                "system_id": torch.tensor(100 + k),
                "step": torch.tensor(2**33 + k),
            }
        )
    return systems


def _batch(systems: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    atoms = {name: torch.cat([s[name] for s in systems]) for name in ("positions", "moved", "types", "charges")}
    of_systems = ("cell", "pbc", "system_id", "step", "included", "open_axis", "mesh")
    rows = {name: torch.stack([s[name] for s in systems]) for name in of_systems}
    counts = torch.tensor([0] + [len(s["positions"]) for s in systems])
    return atoms | rows | {"segment_ptr": counts.cumsum(0).int()}


def _operation(name: str) -> Any:
    """Return the public call; what stands after it in `name` is the form that `_arguments` chooses."""
    return getattr(kernels, name.split()[0])


def _registered(name: str) -> Any:
    return getattr(torch.ops.athanor, name.split()[0]).default


def _empty_list(atoms: int) -> tuple[torch.Tensor, ...]:
    none = torch.zeros(0, dtype=torch.int32)
    return torch.zeros(atoms + 1, dtype=torch.int64), none, none, torch.zeros((atoms, 3), dtype=torch.int32)


def _ensemble_arguments(name: str, batch: dict[str, torch.Tensor], half: bool) -> tuple[Any, ...]:
    """Arguments of thermostats and barostats; `half` chooses the other coupling, order and direction."""
    positions, cell, pointer = batch["positions"], batch["cell"], batch["segment_ptr"]
    velocities, noise, masses = batch["moved"] - positions, positions.sin(), 3.0 * batch["types"].to(positions.dtype)
    number, glides = (batch["step"] % 8).double(), batch["included"]
    dof = (3.0 * torch.diff(pointer) - 3.0 * glides).clamp(min=0.0).double()
    constants = torch.stack((dof, glides, 0.2 + 0.01 * number, 0.02 + 0.01 * number, 2 + number, 9 + number), 1)
    columns = constants.unbind(1)
    if name == "momentum_flow":
        return velocities, masses, glides, pointer
    if name == "scaled":
        return velocities, columns[2], cell[:, 0], pointer
    if name == "rescaling_factor":
        return noise, columns[3] + 0.3, columns[0], columns[3], columns[2], pointer
    if name == "ornstein_uhlenbeck":
        return velocities, noise, columns[2], positions[:, 0].abs(), masses, pointer
    links = torch.stack((number, -number, 0.5 * number), 1) * 0.02
    if name == "nose_hoover_half_step":
        return velocities, masses, links, constants, pointer, 5 if half else 3
    momentum, pressure = (
        0.002 * (cell + cell.mT).double(),
        0.01 * torch.eye(3, dtype=torch.float64) + 0.0 * cell.double(),
    )
    if name == "barostat_drift":
        return positions, velocities, masses, cell, momentum, pressure, constants, pointer, 0.5 if half else 1.0
    stress = 0.001 * (cell * cell.mT).double()
    links = links[:, :0] if half else links
    arguments = (velocities, noise, masses, momentum, links, 0.5 * links, stress, cell, pressure, constants, pointer)
    return *arguments, 2 if half else 0, 3, half


def _arguments(name: str, batch: dict[str, torch.Tensor], half: bool = False) -> tuple[Any, ...]:
    positions, cell, pointer = batch["positions"], batch["cell"], batch["segment_ptr"]
    if name == "segment_sum":
        return positions, pointer
    if name in ENSEMBLES:
        return _ensemble_arguments(name, batch, half)
    if name == "segment_max":
        return positions[:, 0].contiguous(), pointer
    if name.startswith("philox"):
        return pointer, batch["system_id"], batch["step"], 42, 2, 3, positions.dtype
    if name == "cell_shape":
        return (cell,)
    if name == "strained":
        return positions, cell, 0.02 * (cell + cell.mT), pointer
    if name.startswith("fire"):
        velocities = batch["moved"] - positions
        if name == "fire_sums":
            return velocities, positions, pointer
        alternating = batch["step"] % 2 == 0
        numbers = [alternating.to(positions.dtype) + shift for shift in (0.1, 0.5, 0.3, 0.05)]
        return velocities, positions, 1.0 / (1.0 + batch["types"].to(positions.dtype)), pointer, alternating, *numbers
    if name == "needs_rebuild":
        return batch["moved"], positions, cell * 1.001, cell, pointer, batch["step"], RADIUS, 0.05
    charged = (positions, cell, pointer, batch["charges"], batch["included"])
    if name == "finite_coulomb":
        return charged
    if name == "ewald_reciprocal":
        return *charged, 0.9, 5.5, 6.0, True
    if name == "pme_reciprocal":
        return *charged, 0.9, batch["mesh"], 6, True
    if name == "charge_corrections":
        return *charged, batch["open_axis"], 0.5, 2.0
    if name == "dftd3":
        tables = load_dftd3_params()
        references = references_of(tables["c6ab"], tables["cn_ref"])
        constants = (tables["rcov"], tables["r4r2"], tables["r0ab"], references, tables["c6ab"])
        numbers = 6 + 2 * batch["types"].long()
        damping = (1.2, 1.0) if half else (0.43, 4.4)  # it reads no list: the two dampings stand for two kinds of it
        form = (not half, 1.0, 0.8, 1.0, *damping, 14, 16.0, -4.0)
        return positions, cell, pointer, batch["pbc"], numbers, *constants, *form, 6.5, 5.0, 4.0, 0.2
    all_systems = torch.ones(len(cell), dtype=torch.bool)
    build = (positions, cell, batch["pbc"], pointer, RADIUS, half, all_systems, *_empty_list(len(positions)))
    if name == "build_neighbor_list":
        return build
    lists = kernels.build_neighbor_list(*build)
    if name == "minimum_distance":
        return positions, cell, pointer, *lists
    if name == "screened_coulomb":
        return positions, cell, pointer, *lists, *charged[3:], 0.9, CUTOFF, 2.2, 0.05, 0.01, half
    pairs = (positions, cell, pointer, *lists, batch["types"])
    if name == "embedded_atom":
        return *pairs, *_functions(), 0.4, 0.05, CUTOFF, half
    if name == "stillinger_weber":
        every = kernels.build_neighbor_list(*build[:5], False, *build[6:])
        pair = torch.tensor([[7.0, 0.6, 4.0, 0.0, 1.3, 2.5, 2.5, 1.2], [5.0, 0.7, 3.5, 1.0, 1.2, 2.2, 2.1, 1.1]])
        pair = torch.stack((pair, torch.stack((pair[1], pair[0]))))
        triple = torch.tensor([[20.0, -0.3], [10.0, -0.2], [10.0, -0.2], [15.0, -0.5]]).reshape(2, 2, 2)
        tables = (pair.double(), torch.stack((triple, 1.5 * triple)).double())
        return positions, cell, pointer, *every, batch["types"], *tables
    form = name.partition(" ")[2]
    table = pair_table(form, CUTOFF, form != "zbl", *(factor * MIXED for factor in PARAMETERS[form]))
    return *pairs, table, form, CUTOFF, 0.0 if form == "zbl" else 0.4, half, True


MIXED = torch.tensor([[1.0, 0.9], [0.9, 0.8]], dtype=torch.float64)
PARAMETERS = {
    "lennard-jones": (1.0, 1.2),
    "morse": (0.5, 2.0, 1.3),
    "buckingham": (200.0, 0.3, 2.0),
    "zbl": (60.0, 0.4, 1.0, CUTOFF / MIXED),
}


def _functions() -> list[torch.Tensor]:
    """Return cubic pieces of embedding, density and pair functions of two elements; densities pass the table's end."""
    r = torch.arange(53, dtype=torch.float64) * 0.05
    fade = (1.0 - r / r[-1]) ** 3
    density = torch.stack([a * fade * torch.exp(-b * r) for a, b in ((3.0, 0.5), (2.0, 0.7), (2.5, 0.6), (4.0, 0.9))])
    pair = torch.stack([a * r * fade * torch.exp(-2.0 * r) for a in (30.0, 20.0, 20.0, 40.0)])
    rho = torch.arange(12, dtype=torch.float64) * 0.4
    embedding = torch.stack((-2.0 * rho.sqrt(), 0.1 * rho**2 - rho))
    return [cubic_pieces(embedding), *(cubic_pieces(each).reshape(2, 2, 53, 4) for each in (density, pair))]


REFERENCES: dict[str, Any] = {
    "segment_sum": segment_reference.segment_sum,
    "segment_max": segment_reference.segment_max,
    "cell_shape": cell_reference.cell_shape,
    "strained": cell_reference.strained,
    "fire_sums": fire_reference.fire_sums,
    "fire_moves": fire_reference.fire_moves,
    "momentum_flow": flow_reference.momentum_flow,
    "scaled": flow_reference.scaled,
    "nose_hoover_half_step": thermostat_reference.nose_hoover_half_step,
    "rescaling_factor": thermostat_reference.rescaling_factor,
    "ornstein_uhlenbeck": thermostat_reference.ornstein_uhlenbeck,
    "barostat_half_step": barostat_reference.barostat_half_step,
    "barostat_drift": barostat_reference.barostat_drift,
    "philox_uniform": philox_reference.uniform,
    "philox_normal": philox_reference.normal,
    "build_neighbor_list": list_reference.build_neighbor_list,
    "minimum_distance": list_reference.minimum_distance,
    "needs_rebuild": displacement_reference.needs_rebuild,
    **dict.fromkeys(FORMS, pair_potential._pair_potential.reference),
    "embedded_atom": embedded_atom._embedded_atom.reference,
    "stillinger_weber": stillinger_weber._stillinger_weber.reference,
    "screened_coulomb": coulomb._screened_coulomb.reference,
    "dftd3": dispersion._dftd3.reference,
    "finite_coulomb": coulomb._finite_coulomb.reference,
    "ewald_reciprocal": ewald._ewald_reciprocal.reference,
    "pme_reciprocal": pme._pme_reciprocal.reference,
    "charge_corrections": ewald._charge_corrections.reference,
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_reference_repeats_and_ignores_threads(name: str, dtype: torch.dtype, half: bool) -> None:
    operation = _operation(name)
    arguments = _arguments(name, _batch(_systems(dtype)), half)
    contract.check_agreement(operation, REFERENCES[name], arguments)
    contract.check_repeatable(operation, arguments)
    contract.check_threads(operation, arguments)


def _per_system(name: str, half: bool, broken: bool = False) -> Any:
    systems = _systems(torch.float64)

    def compute(order: list[int]) -> list[tuple[torch.Tensor, ...]]:
        batch = _batch([systems[b] for b in order])
        if broken:
            batch["system_id"] = torch.arange(len(order))  # the mutant keys noise by place
        outputs = contract.as_tuple(_operation(name)(*_arguments(name, batch, half)))
        pointer = batch["segment_ptr"].tolist()
        result = []
        for b, (first, last) in enumerate(pairwise(pointer)):
            if name == "build_neighbor_list":
                row_ptr, neighbors, images, offsets = outputs
                rows = row_ptr[first : last + 1]
                pairs = slice(int(rows[0]), int(rows[-1]))
                result.append((rows - rows[0], neighbors[pairs], images[pairs], offsets[first:last]))
            else:
                atoms = batch["segment_ptr"][-1]
                result.append(tuple(o[first:last] if len(o) == atoms else o[b : b + 1] for o in outputs))
        return result

    return compute


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_system_does_not_depend_on_its_companions(name: str, half: bool) -> None:
    contract.check_batch_invariance(_per_system(name, half), len(SIZES))


def test_noise_keyed_by_place_fails_the_companion_check() -> None:
    with pytest.raises(AssertionError, match="alone against order"):
        contract.check_batch_invariance(_per_system("philox_normal", False, broken=True), len(SIZES))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_direct_call_and_the_registered_op_give_equal_bits(name: str, half: bool) -> None:
    arguments = _arguments(name, _batch(_systems(torch.float64)), half)
    registered = _registered(name)(*arguments)
    contract.check_equal_bits(_operation(name)(*arguments), registered, "direct against registered")


def test_the_registered_op_is_called_where_torch_must_see_it() -> None:
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    values, pointer = torch.ones(4, 3), torch.tensor([0, 1, 4], dtype=torch.int32)
    with Watch():
        kernels.segment_sum(values, pointer)
    assert torch.ops.athanor.segment_sum.default in seen
    assert torch.equal(kernels.segment_sum(torch._neg_view(values), pointer), -kernels.segment_sum(values, pointer))
    assert kernels.segment_sum(values.clone().requires_grad_(), pointer).requires_grad
    assert kernels.segment_sum(torch.nn.Parameter(values), pointer).requires_grad
    assert kernels.segment_sum(values.to("meta"), pointer.to("meta")).is_meta
    with pytest.raises(RuntimeError, match="functorch"):  # torch's answer; no derivative is lost in silence
        torch.func.grad(lambda v: kernels.segment_sum(v, pointer).sum())(values)


@pytest.mark.parametrize("name", NAMES)
def test_registration(name: str) -> None:
    contract.check_fake(_registered(name), _arguments(name, _batch(_systems(torch.float64))))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_nothing(name: str) -> None:
    nothing = {
        "positions": torch.zeros(0, 3, dtype=torch.float64),
        "moved": torch.zeros(0, 3, dtype=torch.float64),
        "types": torch.zeros(0, dtype=torch.int32),
        "charges": torch.zeros(0, dtype=torch.float64),
        "included": torch.zeros(0, dtype=torch.bool),
        "open_axis": torch.zeros(0, dtype=torch.int64),
        "mesh": torch.zeros(0, 3, dtype=torch.int64),
        "cell": torch.zeros(0, 3, 3, dtype=torch.float64),
        "pbc": torch.zeros(0, 3, dtype=torch.bool),
        "system_id": torch.zeros(0, dtype=torch.int64),
        "step": torch.zeros(0, dtype=torch.int64),
        "segment_ptr": torch.zeros(1, dtype=torch.int32),
    }
    outputs = contract.as_tuple(_operation(name)(*_arguments(name, nothing)))
    sizes = [0] if name != "build_neighbor_list" else [1, 0, 0, 0]
    assert [len(o) for o in outputs][: len(sizes)] == sizes


def test_gradients() -> None:
    batch = _batch(_systems(torch.float64))
    pointer = batch["segment_ptr"]
    weights = torch.arange(3.0 * len(SIZES), dtype=torch.float64).reshape(-1, 3)
    contract.check_gradient(lambda v: (weights * kernels.segment_sum(v, pointer) ** 2).sum(), [batch["positions"]])


def _of_variables(name: str, batch: dict[str, torch.Tensor]) -> tuple[Any, list[torch.Tensor]]:
    """Return an energy operation as a function of positions, cell and, where it has them, charges; and these."""
    arguments = list(_arguments(name, batch))
    places = [0, 1, *(at for at, each in enumerate(arguments) if each is batch["charges"])]

    def operation(*variables: torch.Tensor) -> Any:
        replaced = dict(zip(places, variables, strict=True))
        return _operation(name)(*(replaced.get(at, each) for at, each in enumerate(arguments)))

    return operation, [arguments[at] for at in places]


@pytest.mark.parametrize("name", ENERGIES)
def test_first_derivatives_of_energies(name: str) -> None:
    operation, variables = _of_variables(name, _batch(_systems(torch.float64)))
    contract.check_gradient(lambda *given: operation(*given)[0], variables)


@pytest.mark.parametrize("name", ENERGIES)
def test_second_derivatives_of_energies(name: str) -> None:
    systems = _systems(torch.float64)
    contract.check_second_derivatives(*_of_variables(name, _batch([systems[0], systems[2], systems[4]])))


def test_charges_may_depend_on_the_positions() -> None:
    """A derivative by positions is one at fixed charges: what acts through these must not be counted twice."""
    operation, (positions, cell, _) = _of_variables("ewald_reciprocal", _batch(_systems(torch.float64)[:1]))
    contract.check_second_derivatives(lambda r: operation(r, cell, r[:, 0].tanh()), [positions])


def test_a_wrong_derivative_fails() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x**2

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return -gradient

    with pytest.raises(Exception, match="Jacobian mismatch"):
        contract.check_gradient(lambda x: Wrong.apply(x).sum(), [torch.ones(3)])


def test_an_energy_whose_forces_are_constants_fails() -> None:
    def detached(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (x**3).sum()[None], (-3.0 * x.detach() ** 2 + 0.0 * x)

    with pytest.raises(Exception, match="Jacobian mismatch"):
        contract.check_second_derivatives(detached, [torch.ones(3)])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by torch's forward mode
def test_a_derivative_in_forward_mode_is_refused() -> None:
    """Torch would hand back zero for it: an operation without a rule drops the tangent."""
    batch = _batch(_systems(torch.float64))
    others = _arguments(FORMS[0], batch)[1:]
    directions = (batch["positions"],), (torch.ones_like(batch["positions"]),)
    with pytest.raises(NotAvailableError, match="`pair_potential` has no derivative in forward mode"):
        torch.func.jvp(lambda positions: kernels.pair_potential(positions, *others)[0], *directions)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_a_virial_that_is_not_asked_for_has_no_rows_and_changes_nothing(name: str, half: bool) -> None:
    *arguments, _ = _arguments(name, _batch(_systems(torch.float64)), half)
    whole, part = (_operation(name)(*arguments, flag) for flag in (True, False))
    assert all(torch.equal(one, other) for one, other in zip(whole[:2], part[:2], strict=True))
    assert (whole[2].shape, part[2].shape) == ((len(SIZES), 3, 3), (0, 3, 3))
    assert REFERENCES[name](*arguments, False)[2].shape == (0, 3, 3)
    arguments[0], arguments[1] = (tensor.clone().requires_grad_(True) for tensor in arguments[:2])
    by_cell = [
        torch.autograd.grad(_operation(name)(*arguments, flag)[0].sum(), arguments[1])[0] for flag in (True, False)
    ]
    assert torch.equal(*by_cell)
    assert by_cell[0].abs().max() > 0.0


def test_broken_twins_of_agreement_repetition_and_threads_fail() -> None:
    x = torch.rand(8, dtype=torch.float64)
    with pytest.raises(AssertionError, match="is off by"):
        contract.check_agreement(lambda a: a * (1 + 1e-9), lambda a: a, [x])
    with pytest.raises(AssertionError, match="is not finite elsewhere"):
        contract.check_agreement(lambda a: a.log(), lambda a: a, [x - x])
    with pytest.raises(AssertionError, match="repeated call"):
        contract.check_repeatable(lambda a: torch.rand_like(a), [x])
    with pytest.raises(AssertionError, match="argument 0"):
        contract.check_repeatable(lambda a: a.zero_().clone(), [x])
    with pytest.raises(AssertionError, match="one against two threads"):
        contract.check_threads(lambda a: a * torch.get_num_threads(), [torch.ones(2)])
