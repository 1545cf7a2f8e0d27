"""Learned potentials evaluated in other ways: compiled, in inference mode, on two threads, with their graph at hand.

Each way is timed in turn with the plain evaluation of the same small batch, and has to give the same numbers, in the
environment of the package, as in `potentials.py`. Single measurements; those on two threads want a quiet machine.

    python benchmarks/variants.py                print rows, and the lines of the table on the page of models
    python benchmarks/variants.py --only mace --ways inference graph
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

from harness import Row, cpu, describe, interleave, wall
from potential_builders import POTENTIALS
from potential_programs import check, systems_of
from potentials import run_there

LIMIT = 240
"""Seconds that compiling and evaluating may take."""
COUNTS = {"crystals": 8, "molecules": 50}
FEWER = dict.fromkeys(("7net-0", "7net-l3i5", "diep", "orb", "orb-direct"), 4)
ROUNDS = 3
NETWORKS = {
    "chgnet": "model.forward",
    "orb": "model.model.forward",
    "orb-direct": "model.model.forward",
    "uma": "model.backbone.forward",
    "mattersim": "model.forward",
    "aimnet2": "model.forward",
}
"""What of a wrapper is compiled; of others all that evaluates the network, ``network_outputs``."""
WRAPPERS = "athanor.models"
PAIRS = f"{WRAPPERS}.network_graph:NetworkGraph.__init__"
GRAPHS = {
    "chgnet": (f"{WRAPPERS}.chgnet.wrapper:CHGNetWrapper._graph",),
    "mace": (f"{WRAPPERS}.mace.wrapper:MACEWrapper.adapt_input",),
    "diep": (PAIRS, "diep.graph.compute:create_line_graph"),
    "mattersim": (PAIRS, f"{WRAPPERS}.mattersim.wrapper:triples"),
    "orb": (PAIRS, f"{WRAPPERS}.orb.wrapper:OrbWrapper._atom_graphs"),
    "orb-direct": (PAIRS, f"{WRAPPERS}.orb.wrapper:OrbWrapper._atom_graphs"),
    "metatomic": (PAIRS, f"{WRAPPERS}.metatomic.systems:SystemMaker.__call__"),
    "aimnet2": (PAIRS, f"{WRAPPERS}.aimnet2.wrapper:AIMNet2Wrapper._padded"),
}
"""What makes the graph of pairs and angles from the neighbour list, which is kept under the skin already."""


class Case:
    """A model with its systems, in a batch whose neighbour list stands."""

    def __init__(self, name: str, smoke: bool) -> None:
        import athanor

        athanor.set_num_threads(1)
        self.name, kind = name, POTENTIALS[name].systems
        self.model, _ = POTENTIALS[name].build()
        self.systems = systems_of(kind, 2 if smoke else FEWER.get(name, COUNTS[kind]), self.model.model_card.elements)
        self.batch = self.batch_of(self.systems)
        self.rounds = 1 if smoke else ROUNDS
        self.label = f"{name}, {len(self.systems)} {kind}, {self.batch.num_nodes} atoms"
        for _ in range(1 if smoke else 2):  # the first calls compile, too
            self.expected = self.evaluated()

    def batch_of(self, systems: list[Any]) -> Any:
        """Return a batch of some systems."""
        import torch

        from athanor.data import AtomicData, Batch
        from athanor.neighbors import compute_neighbors

        batch = Batch.from_data_list([AtomicData.from_atoms(atoms, dtype=torch.float64) for atoms in systems])
        compute_neighbors(batch, config=self.model.model_config.neighbor_config)
        return batch

    def evaluated(self, model: Any = None, batch: Any = None) -> tuple[Any, Any]:
        """Return energies and forces of the batch."""
        outputs = (self.model if model is None else model)(self.batch if batch is None else batch)
        return outputs["energy"].detach().view(-1).numpy(), outputs["forces"].detach().numpy()


def compiled(case: Case) -> Row:
    """Time the network under `torch.compile`, with sizes that may change."""
    with _compiled(case) as evaluate:
        started = time.monotonic()
        for _ in range(2):
            check(evaluate(), case.expected, case.systems)
        first = time.monotonic() - started
        timed = {"plain": partial(_milliseconds, case.evaluated), "compiled": partial(_milliseconds, evaluate)}
        return interleave(f"{case.label}, first calls {first:.0f} s", "ms", timed, case.rounds)


@contextmanager
def _compiled(case: Case) -> Iterator[Callable[[], Any]]:
    """Yield what evaluates the batch by a compiled network; the plain model stays as it is."""
    import torch

    if isinstance(case.model.model, torch.jit.ScriptModule):
        raise TypeError("the network is a program in TorchScript")
    if case.name in MADE_ANEW:
        yield partial(case.evaluated, type(case.model)(MADE_ANEW[case.name](case.model.model)).eval())
        return
    *path, last = NETWORKS.get(case.name, "network_outputs").split(".")
    other = owner = copy.deepcopy(case.model)
    for each in path:
        owner = getattr(owner, each)
    setattr(owner, last, torch.compile(getattr(owner, last), dynamic=True))
    yield partial(case.evaluated, other)


def inference(case: Case) -> Row:
    """Time what needs no backward pass, the energy and what the network predicts, in inference mode."""
    import numpy as np
    import torch

    wanted = {"energy"} | ({"forces"} & set(getattr(case.model, "predicted", ())))

    def evaluate(mode: Any) -> Any:
        with mode():
            return case.model.attached_energy(case.batch.shallow_view(), None, wanted)

    for mode in (torch.no_grad, torch.inference_mode, torch.no_grad):
        found = evaluate(mode)
        for name, before in zip(("energy", "forces"), case.expected, strict=True):
            if name in wanted and not np.allclose(found[name].numpy().reshape(before.shape), before, 1e-5, 1e-3):
                raise AssertionError(f"{name}: other numbers in inference mode")
    modes = {"no_grad": torch.no_grad, "inference mode": torch.inference_mode}
    timed = {key: partial(_milliseconds, partial(evaluate, mode)) for key, mode in modes.items()}
    return interleave(f"{case.label}, {' and '.join(sorted(wanted))}", "ms", timed, case.rounds)


def _milliseconds(call: Callable[[], Any], clock: Callable[[Callable[[], Any]], float] = cpu) -> float:
    return 1e3 * clock(call)


def threads(case: Case) -> Row:
    """Time halves of the batch on two threads, each on its own, against the whole by two threads of torch."""
    import numpy as np
    import torch

    import athanor

    halves = [case.systems[::2], case.systems[1::2]]
    in_order = [*halves[0], *halves[1]]
    whole, *parts = (case.batch_of(each) for each in (in_order, *halves))
    models = (case.model, copy.deepcopy(case.model))
    athanor.set_num_threads(2)
    with ThreadPoolExecutor(2, initializer=partial(torch.set_num_threads, 1)) as pool:

        def together() -> Any:
            return case.evaluated(batch=whole)

        def alone() -> Any:
            torch.set_num_threads(1)
            try:
                return together()
            finally:
                torch.set_num_threads(2)

        def apart() -> Any:
            found = list(pool.map(case.evaluated, models, parts))
            return [np.concatenate(each) for each in zip(*found, strict=True)]

        for _ in range(2):
            check(apart(), together(), in_order)
        ways = {"two threads of torch": together, "halves on two": apart, "one thread": alone}
        timed = {key: partial(_milliseconds, call, wall) for key, call in ways.items()}
        row = interleave(case.label, "ms", timed, case.rounds, threads=2)
    athanor.set_num_threads(1)
    return row


def graph(case: Case) -> Row:
    """Time what makes the graph of pairs and angles from the neighbour list, as a part of the evaluation."""
    return interleave(case.label, "%", {"graph": partial(_share_of_graph, case)}, case.rounds)


def _share_of_graph(case: Case) -> float:
    seconds, depth = 0.0, 0

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal seconds, depth
            started, depth = time.process_time(), depth + 1
            try:
                return function(*arguments, **more)
            finally:
                depth -= 1
                seconds += 0.0 if depth else time.process_time() - started

        return call

    with ExitStack() as stack:
        for place in GRAPHS.get(case.name, (PAIRS,)):
            module, _, path = place.partition(":")
            owner: Any = import_module(module)
            *parents, last = path.split(".")
            for each in parents:
                owner = getattr(owner, each)
            stack.enter_context(patch.object(owner, last, timed(getattr(owner, last))))
        total = cpu(case.evaluated)
    return 100.0 * seconds / total


def _mace(network: Any) -> Any:
    """Return the network as `MACEWrapper` compiles it: what e3nn generates can not be compiled, so it is left out."""
    from athanor.models.mace.network import compiled

    return compiled(network, {"dynamic": True}, made_anew=True)


def _nequip(network: Any) -> Any:
    """Return the network as its package compiles it, with its derivatives."""
    from nequip.nn.compile import CompileGraphModel

    from athanor.models.nequip.network import CompiledNetwork

    frozen = CompileGraphModel(network.model, None, network.irreps_in).eval().requires_grad_(False)
    return CompiledNetwork(frozen, network.metadata)


MADE_ANEW = {"mace": _mace, "nequip": _nequip, "allegro": _nequip}
WAYS: dict[str, Callable[[Case], Row]] = {
    "compiled": compiled, "inference": inference, "threads": threads, "graph": graph
}  # fmt: skip


def inside(name: str, ways: list[str], smoke: bool) -> dict[str, Any]:
    """Return of each way its row, or why there is none."""
    case, found = Case(name, smoke), {}
    for way in ways:
        try:
            found[way] = WAYS[way](case)
        except Exception as error:  # whatever a package, or the compiler, makes of it
            found[way] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return found


def measured(name: str, ways: list[str], smoke: bool = False, limit: float = LIMIT) -> dict[str, Any]:
    """Return of each way its row, or why there is none, for one potential; compiling in a process of its own."""
    found: dict[str, Any] = {}
    for some in ([way for way in ways if way == "compiled"], [way for way in ways if way != "compiled"]):
        arguments = [str(Path(__file__).resolve()), name, "--inside", *some, *(["--smoke"] * smoke)]
        try:
            found |= run_there(name, arguments, limit if some == ["compiled"] else None) if some else {}
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            text = f"no result in {limit:g} s" if isinstance(error, subprocess.TimeoutExpired) else str(error)
            found |= dict.fromkeys(some, text)
    return found


def told(way: str, found: Row | str) -> str:
    """Return an entry of the table: the least of the other way over the least of the plain one."""
    if isinstance(found, str):
        return found
    least = [min(figures) for figures in found["figures"].values()]
    return f"{least[0]:.2g} %" if way == "graph" else f"{least[1] / min(least[:1] + least[2:]):.2f}"


def main() -> None:
    """Measure and print; a line of the table for each potential."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("name", nargs="?", choices=POTENTIALS, help=argparse.SUPPRESS)
    parser.add_argument("--inside", nargs="+", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=POTENTIALS, default=list(POTENTIALS), help="which; all by default")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does the script run?")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="seconds for compiling and evaluating; 240 by default"
    )
    options = parser.parse_args()
    if options.inside:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of the packages
            print(json.dumps(inside(options.name, options.inside, options.smoke)))
        return
    for name in options.only:
        found = measured(name, options.ways, options.smoke, options.limit)
        for way, each in found.items():
            print(f"  {way}: {each if isinstance(each, str) else describe(each)}")
        print(f"| {name} |", " | ".join(told(way, each) for way, each in found.items()), "|", flush=True)


if __name__ == "__main__":
    sys.exit(main())
