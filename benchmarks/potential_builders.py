"""Learned potentials, each beside the calculator of its own package with the same network.

Where a package ships parameters they are taken; else a network of its class has random ones: the same work, other
numbers. Those are built as the tests of the wrapper build them, in larger. Packages are imported when one is built.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import potential_batches as batch

TESTS = Path(__file__).resolve().parent.parent / "tests" / "models_apart"
LATTICES = (
    ("NaCl", "rocksalt", 5.64), ("Si", "diamond", 5.43), ("Cu", "fcc", 3.615), ("MgO", "rocksalt", 4.21),
    ("GaAs", "zincblende", 5.65), ("Fe", "bcc", 2.87), ("KCl", "rocksalt", 6.29), ("Al", "fcc", 4.05),
)  # fmt: skip


class Potential(NamedTuple):
    """A network of a wrapper: the environment it runs in, its package, what it is for, and what builds it.

    `build` returns the wrapped model, and the package's calculator with the same network; `batch` takes that calculator
    and systems, and evaluates all at once as the package does. `count` is how many systems there are.
    """

    environment: str
    package: str
    systems: str
    parameters: str
    build: Callable[[], tuple[Any, Any]]
    batch: Callable[[Any, list[Any]], tuple[Any, Any]]
    count: int = 32


def chgnet() -> tuple[Any, Any]:
    """Return CHGNet 0.3.0."""
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    from athanor.models import get

    network = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
    return get("chgnet"), CHGNetCalculator(network, use_device="cpu")


def sevennet(name: str) -> tuple[Any, Any]:
    """Return SevenNet-0 of 11 July 2024, or another of the shipped ones."""
    from sevenn.calculator import SevenNetCalculator

    from athanor.models import get

    return get(name), SevenNetCalculator(name, device="cpu")


def so3lr() -> tuple[Any, Any]:
    """Return SO3LR in single precision, as its calculator is by default."""
    from so3krates_torch.calculator.so3 import SO3LRCalculator

    from athanor.models import get

    return get("so3lr"), SO3LRCalculator(device="cpu", default_dtype="float32", compute_stress=False)


def diep() -> tuple[Any, Any]:
    """Return DIEP."""
    from diep.pretrained import make_calculator

    from athanor.models import get

    return get("diep"), make_calculator(stress=False)


def mace() -> tuple[Any, Any]:
    """Return a network of the architecture of MACE-MP-0 small: 89 elements, 128 scalars, two layers, 6 Å."""
    import numpy as np
    import torch

    test = of_the_tests("mace")
    block = test.modules.interaction_classes["RealAgnosticResidualInteractionBlock"]
    size = {"r_max": 6.0, "num_bessel": 10, "max_ell": 3, "avg_num_neighbors": 62.0, "atomic_inter_scale": 10.0}
    made = test.random_network(
        torch.float32,
        num_elements=89,
        atomic_numbers=list(range(1, 90)),
        atomic_energies=np.zeros(89),
        interaction_cls_first=block,
        hidden_irreps=test.o3.Irreps("128x0e"),
        MLP_irreps=test.o3.Irreps("16x0e"),
        **size,
    ).requires_grad_(False)
    return test.MACEWrapper(made).eval(), test.MACECalculator(models=[made], device="cpu", default_dtype="float32")


def orb(kind: str) -> tuple[Any, Any]:
    """Return an ORB v3 of the published size, conservative or direct."""
    import torch

    test = of_the_tests("orb")
    size = {"latent_dim": 256, "base_mlp_hidden_dim": 1024, "head_mlp_hidden_dim": 256, "num_message_passing_steps": 5}
    made = test.random_network(kind, torch.float32, **size)
    return test.OrbWrapper(made).eval(), test.ORBCalculator(made, test.Adapter(6.0, 120), device="cpu")


def mattersim() -> tuple[Any, Any]:
    """Return a MatterSim of the size of its smaller published network."""
    import torch

    test = of_the_tests("mattersim")
    torch.manual_seed(0)
    made = test.M3Gnet(num_blocks=3, units=128, max_l=4, max_n=4, device="cpu").float().eval().requires_grad_(False)
    made.normalizer.scale.fill_(10.0)
    potential = test.package.Potential(made, device="cpu", model_name="m3gnet")
    calculator = test.package.MatterSimCalculator(potential, device="cpu", compute_stress=False)
    return test.MatterSimWrapper(made).eval(), calculator


def uma() -> tuple[Any, Any]:
    """Return a small UMA: 32 channels, two layers, four experts, task omat."""
    import torch

    from athanor.models import UMAWrapper

    test = of_the_tests("uma")
    config = test.configuration()
    config["backbone"] |= {"sphere_channels": 32, "edge_channels": 32, "hidden_channels": 32}
    with tempfile.TemporaryDirectory() as folder:
        file = test.write_checkpoint(Path(folder) / "small.pt", config)
        model = UMAWrapper.from_checkpoint(file, "omat", trust=True)
        return model, test.calculator(file, "omat", torch.float32)


def pet() -> tuple[Any, Any]:
    """Return a small PET of metatrain, exported: 64 features, two layers, 4.5 Å."""
    import torch

    test = of_the_tests("pet")
    with tempfile.TemporaryDirectory() as folder:
        size = {"d_pet": 64, "d_head": 64, "d_node": 64, "d_feedforward": 128, "num_heads": 4}
        file = test.written(Path(folder) / "pet.pt", torch.float32, **size)
        return test.MetatomicWrapper.from_checkpoint(file, trust=True), test.MetatomicCalculator(file)


def nequip() -> tuple[Any, Any]:
    """Return a small NequIP: 32 features to degree 2, two layers, 5 Å."""
    return of_nequip("nequip", num_features=32, l_max=2)


def allegro() -> tuple[Any, Any]:
    """Return a small Allegro: 64 scalars, 32 tensors to degree 2, two layers, 5 Å."""
    return of_nequip("allegro", num_scalar_features=64, num_tensor_features=32, l_max=2)


def of_nequip(kind: str, **size: int) -> tuple[Any, Any]:
    """Return a network of the framework of NequIP."""
    from ase.data import chemical_symbols

    test = of_the_tests("nequip")
    names = [chemical_symbols[number] for number in elements()]
    made = test.random_network(kind, "float32", type_names=names, r_max=5.0, per_type_energy_shifts=0.0, **size)
    transforms = test.basic_transforms(made.metadata, 5.0, names, {name: name for name in names})
    return test.NequIPWrapper(made).eval(), test.NequIPCalculator(made, "cpu", transforms=transforms)


def aimnet2() -> tuple[Any, Any]:
    """Return a small AIMNet2 without partners for charges and dispersion."""
    import torch

    test = of_the_tests("aimnet2")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "aimnet2.pt"
        torch.save(test.content_of_file(), file)
        base = test.AIMNet2Calculator(str(file), device="cpu", needs_coulomb=False, needs_dispersion=False)
        return test.AIMNet2Wrapper.from_checkpoint(file), test.AIMNet2ASE(base)


def of_the_tests(name: str) -> Any:
    """Return the tests of a wrapper as a module: they know how to build a network of it."""
    sys.path.append(str(TESTS.parent))
    return import_module(f"{TESTS.name}.test_{name}")  # they share a module that stands beside them


def elements() -> list[int]:
    """Return the atomic numbers of all crystals, in order."""
    from ase.data import atomic_numbers
    from ase.formula import Formula

    return sorted({atomic_numbers[symbol] for name, _, _ in LATTICES for symbol in Formula(name).count()})


POTENTIALS: dict[str, Potential] = {
    "chgnet": Potential("", "chgnet", "crystals", "shipped", chgnet, batch.chgnet),
    "7net-0": Potential("learned", "sevenn", "crystals", "shipped", partial(sevennet, "7net-0"), batch.sevennet),
    "7net-l3i5": Potential("learned", "sevenn", "crystals", "shipped", partial(sevennet, "7net-l3i5"), batch.sevennet),
    "diep": Potential("learned", "diep", "crystals", "shipped", diep, batch.diep),
    "mace": Potential("mace", "mace-torch", "crystals", "random", mace, batch.mace),
    "orb": Potential("orb", "orb-models", "crystals", "random", partial(orb, "conservative"), batch.orb, 4),
    "orb-direct": Potential("orb", "orb-models", "crystals", "random", partial(orb, "direct"), batch.orb, 4),
    "mattersim": Potential("mattersim", "mattersim", "crystals", "random", mattersim, batch.mattersim),
    "uma": Potential("uma", "fairchem-core", "crystals", "random", uma, batch.uma),
    "metatomic": Potential("metatomic", "metatomic-torch", "crystals", "random", pet, batch.metatomic),
    "nequip": Potential("nequip", "nequip", "crystals", "random", nequip, batch.nequip),
    "allegro": Potential("nequip", "nequip-allegro", "crystals", "random", allegro, batch.nequip, 8),
    "so3lr": Potential("learned", "so3krates-torch", "molecules", "shipped", so3lr, batch.so3lr, 200),
    "aimnet2": Potential("aimnet2", "aimnet", "molecules", "random", aimnet2, batch.aimnet2, 200),
}
