"""The contract of models, applied to ours; broken twins must fail it, each on the rows that its fault is about."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch

from athanor.errors import ContractError, InputError
from athanor.models.base import ModelCard, ModelConfig
from athanor.models.demo import build_demo_model
from athanor.models.dsf import DSFModelWrapper
from athanor.models.ewald import EwaldModelWrapper
from athanor.models.lj import LennardJonesModelWrapper
from athanor.models.pipeline import PipelineGroup, PipelineModelWrapper
from athanor.models.pme import PMEModelWrapper
from athanor.models.qeq import QEqModelWrapper
from athanor.testing import Verdict, check_model
from athanor.testing.model_contract import CHECKS
from athanor.testing.model_kit.bench import ModelBench
from athanor.testing.model_kit.cutoffs import jumps
from athanor.testing.systems import standard_systems

from . import twins
from .twins import Morse

EVERY = standard_systems(distance=2.9, elements=(13, 29))
SYSTEMS = {name: EVERY[name] for name in ("cluster", "atom", "left-handed", "tiny cell")}


def argon(twin: type = LennardJonesModelWrapper, **changes: Any) -> LennardJonesModelWrapper:
    """A strong Lennard-Jones potential, so that errors are not small beside 1 eV."""
    return twin(**{"epsilon": 1.0, "sigma": 3.4, "cutoff": 8.5, "switch_width": 1.5, **changes})


def failed(report: Any) -> set[str]:
    return {row.check for row in report.failed}


def verdicts(report: Any, verdict: Verdict) -> set[str]:
    return {check for check in report.checks if report.verdict(check) is verdict}


# ----------------------------------------------------------------------------------------------------------------- ours


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"half_list": True},
        {"shift": True},
        {"epsilon": {"Ar": 1.0, "Kr": 1.3}, "sigma": {18: 3.4, 36: 3.6}},
        {"epsilon": {"Ar": 1.0, "Kr": 1.3}, "sigma": {18: 3.4, 36: 3.6}, "mixing": "geometric", "half_list": True},
    ],
    ids=["full", "half", "shift", "mixture", "geometric"],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_lennard_jones(changes: dict[str, Any], dtype: torch.dtype) -> None:
    report = check_model(argon(**changes), dtype=dtype).raise_if_failed()
    open_ones = {"units"} if isinstance(changes.get("epsilon"), dict) else {"units", "unknown element"}
    assert verdicts(report, Verdict.NOT_CLAIMED) == open_ones
    assert verdicts(report, Verdict.PASSED) == CHECKS.keys() - open_ones
    assert len(report.rows) > 150


@pytest.mark.parametrize(
    ("coulomb", "dtype"), [(True, torch.float64), (False, torch.float64), (True, torch.float32)], ids=str
)
def test_charge_equilibration(coulomb: bool, dtype: torch.dtype) -> None:
    """Also in bits alone and among others, whatever else is asked for."""
    model = QEqModelWrapper({"Na": 2.8, "Cl": 8.6}, {11: 4.6, 17: 9.9}, {"Na": 1.0, "Cl": 0.7}, 9.0, coulomb=coulomb)
    report = check_model(model, dtype=dtype).raise_if_failed()
    far = {"isolation", "isolated atom", "no pairs"}
    assert verdicts(report, Verdict.NOT_CLAIMED) == far | {"units"}
    assert verdicts(report, Verdict.PASSED) == CHECKS.keys() - far - {"units"}


def test_a_hard_cutoff_says_so_and_its_forces_are_checked_all_the_same() -> None:
    report = check_model(argon(switch_width=0.0)).raise_if_failed()
    (row,) = report.checks["smoothness"]
    assert (row.verdict, row.holds) == (Verdict.NOT_CLAIMED, False)
    assert "does not hold, as the card says" in row.note
    for check in ("forces", "stress"):
        assert {row.verdict for row in report.checks[check]} == {Verdict.PASSED}


def test_a_kink_that_is_admitted_has_no_slope() -> None:
    """Wrong forces are found all the same; and the kink itself, of who claims to be smooth."""
    crystal = {"tiny cell": SYSTEMS["tiny cell"]}
    (row,) = check_model(twins.BendsInTheCrystal(smooth=False), crystal, checks=["stress"]).rows
    assert (row.verdict, "kink" in row.note) == (Verdict.NOT_APPLICABLE, True)
    assert failed(check_model(twins.BendsInTheCrystal(), crystal, checks=["stress"])) == {"stress"}
    for twin in (twins.WrongSignOfForces, twins.WrongSignOfStress):
        assert failed(check_model(twin(smooth=False), SYSTEMS, checks=["forces", "stress"]))


@pytest.mark.parametrize("network", [torch.float32, torch.float64], ids=str)
def test_demo_is_what_its_card_says(network: torch.dtype) -> None:
    report = check_model(build_demo_model(hidden_dim=16).to(network)).raise_if_failed()
    not_invariant = {"sum of forces", "translation", "rotation", "inversion", "isolated atom", "bits in any batch"}
    assert verdicts(report, Verdict.NOT_CLAIMED) == not_invariant | {"units"}
    assert not any(row.holds for row in report.checks["rotation"])
    assert verdicts(report, Verdict.PASSED) >= {"forces", "permutation", "companions", "inputs", "memory", "precision"}
    assert all(row.note for row in report.rows if row.verdict is Verdict.NOT_APPLICABLE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("slabs", [False, True])
def test_ewald(slabs: bool, dtype: torch.dtype) -> None:
    report = check_model(EwaldModelWrapper(8.0, slab_correction=slabs), dtype=dtype).raise_if_failed()
    assert verdicts(report, Verdict.NOT_CLAIMED) == {"units", "isolated atom", "no pairs", "unknown element"}
    assert verdicts(report, Verdict.NOT_APPLICABLE) == {"isolation"}
    assert (report.checks["outputs"][2].verdict is Verdict.NOT_APPLICABLE) is not slabs
    assert ("Left out, as the model refuses it: slab. System 0" in str(report)) is not slabs


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_particle_mesh_ewald(dtype: torch.dtype) -> None:
    report = check_model(PMEModelWrapper(8.0, slab_correction=True), dtype=dtype).raise_if_failed()
    assert verdicts(report, Verdict.NOT_CLAIMED) == {"units", "isolated atom", "no pairs", "unknown element"}


def test_damped_shifted_force() -> None:
    report = check_model(DSFModelWrapper(9.0)).raise_if_failed()
    assert verdicts(report, Verdict.NOT_CLAIMED) == {"units", "smoothness", "unknown element"}


def test_who_refuses_a_crystal_fails() -> None:
    class RefusesAll(Morse):
        def forward(self, data: Any, **kwargs: Any) -> Any:
            raise InputError("not today")

    assert "outputs" in failed(check_model(RefusesAll(), SYSTEMS, checks=["outputs"]))


SUMS = {
    "charges": lambda: argon() + EwaldModelWrapper(7.0, hybrid_forces=True),
    "sum": lambda: argon() + argon(cutoff=5.0, epsilon=0.3),
    "autograd group": lambda: PipelineModelWrapper([PipelineGroup([argon(), argon(cutoff=5.0)], use_autograd=True)]),
    "nested": lambda: PipelineModelWrapper([PipelineGroup([argon() + argon(cutoff=5.0), argon()], use_autograd=True)]),
    "with a third party": lambda: argon() + Morse(),
}


@pytest.mark.parametrize("build", SUMS.values(), ids=SUMS)
def test_sums_of_models(build: Any) -> None:
    report = check_model(build()).raise_if_failed()
    assert verdicts(report, Verdict.PASSED) >= {"forces", "stress", "rotation", "smoothness", "companions", "inputs"}


def test_a_sum_with_a_broken_part_fails_where_the_part_does() -> None:
    report = check_model(argon() + twins.WrongSignOfForces(), SYSTEMS)
    assert "forces" in failed(report)


# --------------------------------------------------------------------------------------------------------- broken twins

SMOOTH_BUT_LOST = {"outputs", "isolated atom", "no pairs", "smoothness"}
TWINS: dict[type[Morse], set[str]] = {
    twins.WrongSignOfForces: {"forces", "sign of forces"},
    twins.WrongSignOfStress: {"stress", "sign of stress"},
    twins.StressWithoutVolume: {"stress"},
    twins.StressWithSignedVolume: {"stress", "sign of stress", "handedness", "inversion"},
    twins.DirectForces: {"forces"},
    twins.HardCutoff: {"smoothness"},
    twins.BendsAtTheCutoff: {"smoothness"},
    twins.PrefersTheXAxis: {"rotation", "sum of forces"},
    twins.KnowsLeftFromRight: {"inversion"},
    twins.HasAnOrigin: {"translation", "images", "extensivity", "sum of forces", "isolated atom"},
    twins.SeesTheOrder: {"permutation", "extensivity", "isolation"},
    twins.LikesShortVectors: {"other cell", "handedness", "extensivity", "isolated atom"},
    twins.EnergyOfTheSystem: {"extensivity", "isolation", "no pairs"},
    twins.ForcesOfCompanions: {"companions"},
    twins.LastBitOfCompanions: {"bits in any batch"},
    twins.DividesByNeighbours: SMOOTH_BUT_LOST,
    twins.OtherNumbersWithStress: {"subsets of outputs", "companions"},
    twins.LastBitWithStress: {"bits beside stress"},
    twins.ReturnsTooMuch: {"subsets of outputs"},
    twins.MovesTheAtoms: {"inputs", "autograd group"},
    twins.WritesToTheBatch: {"inputs"},
    twins.FlagsTheCallersBatch: {"inputs"},
    twins.StaysAttached: {"detached", "autograd group"},
    twins.SharesItsOutput: {"detached"},
    twins.HandsOutTheBatch: {"detached"},
    twins.KeepsEveryGraph: {"memory"},
    twins.OtherInSinglePrecision: {"precision"},
    twins.TakesAnyElement: {"unknown element"},
    twins.StressOfVoigt: {"outputs", "isolated atom"},
    twins.OnAnotherDevice: {"outputs", "isolated atom"},
    twins.WrongStrainInAGroup: {"autograd group"},
    twins.LosesForcesInAGroup: {"autograd group"},
    twins.ChangesItsConfiguration: {"configuration"},
}
"""Broken twin -> the rows that fail; a stress that can not be read leaves the box of the isolated atom unread."""


def test_every_check_has_a_twin_that_fails_it() -> None:
    assert set().union(*TWINS.values()) == {*CHECKS, "configuration"} - {"units"}


def test_the_whole_one_keeps_the_contract() -> None:
    report = check_model(Morse()).raise_if_failed()
    open_ones = {"units", "bits in any batch", "bits beside stress"}
    assert verdicts(report, Verdict.PASSED) == CHECKS.keys() - open_ones - {"autograd group"}
    assert "not attached" in report.checks["autograd group"][0].note
    assert verdicts(check_model(twins.Attached()), Verdict.PASSED) == CHECKS.keys() - open_ones


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.__name__)
def test_a_broken_twin_fails_where_it_is_broken(twin: type[Morse]) -> None:
    report = check_model(twin(), SYSTEMS)
    assert failed(report) == TWINS[twin], report
    assert not report.ok
    with pytest.raises(AssertionError, match=f"Morse .* fails {len(TWINS[twin])} check"):
        report.raise_if_failed()


class HalfListTakenForFull(LennardJonesModelWrapper):
    def adapt_input(self, data: Any, **kwargs: Any) -> dict[str, Any]:
        return {**super().adapt_input(data, **kwargs), "half": False}


class NoImages(LennardJonesModelWrapper):
    def adapt_input(self, data: Any, **kwargs: Any) -> dict[str, Any]:
        inputs = super().adapt_input(data, **kwargs)
        return {**inputs, "images": torch.zeros_like(inputs["images"])}


class NoWrapOffsets(LennardJonesModelWrapper):
    def adapt_input(self, data: Any, **kwargs: Any) -> dict[str, Any]:
        inputs = super().adapt_input(data, **kwargs)
        return {**inputs, "wrap_offsets": torch.zeros_like(inputs["wrap_offsets"])}


@pytest.mark.parametrize(
    ("twin", "check"), [(HalfListTakenForFull, "forces"), (NoImages, "extensivity"), (NoWrapOffsets, "images")]
)
def test_a_wrapper_that_misreads_the_packed_list_fails(twin: type, check: str) -> None:
    assert check in failed(check_model(argon(twin, half_list=twin is HalfListTakenForFull)))


# --------------------------------------------------------------------------------------------------------------- claims


@pytest.mark.parametrize(
    ("twin", "claim", "check"),
    [
        (twins.DirectForces, "conservative", "forces"),
        (twins.KnowsLeftFromRight, "equivariant", "inversion"),
        (twins.HardCutoff, "smooth", "smoothness"),
    ],
)
@pytest.mark.parametrize(("said", "words"), [(None, "does not hold"), (False, "does not hold, as the card says")])
def test_what_is_not_claimed_is_measured_and_told(
    twin: type[Morse], claim: str, check: str, said: bool | None, words: str
) -> None:
    report = check_model(twin(**{claim: said}), SYSTEMS, checks=[check]).raise_if_failed()
    row = max(report.checks[check], key=lambda row: row.severity)
    assert (row.verdict, row.holds) == (Verdict.NOT_CLAIMED, False)
    assert row.error > row.bound
    assert row.note.endswith(words)
    assert f"{check:<22}not claimed" in str(report)


def test_what_holds_and_is_denied_or_open_is_told() -> None:
    report = check_model(Morse(equivariant=False, smooth=None), SYSTEMS).raise_if_failed()
    assert "The card does not claim `equivariant`, which holds in all that was measured." in str(report)
    assert "The card does not claim `smooth`, which holds in all that was measured." in str(report)
    assert report.checks["rotation"][0].note.endswith("holds, though the card denies it")


def test_the_sign_is_no_matter_of_claims() -> None:
    report = check_model(twins.WrongSignOfForces(conservative=False), SYSTEMS, checks=["forces", "sign of forces"])
    assert failed(report) == {"sign of forces"}


def test_outputs_that_come_from_differentiation_claim_to_be_conservative() -> None:
    twin = twins.WrongSignOfStress(conservative=None)
    assert failed(check_model(twin, SYSTEMS, checks=["stress"])) == {"stress"}
    assert not failed(check_model(twins.DirectForces(conservative=None), SYSTEMS, checks=["forces"]))


def test_equal_bits_are_asked_of_those_who_claim_them_only() -> None:
    twin = twins.LastBitOfCompanions(batch_invariance="not_verified")
    report = check_model(twin, SYSTEMS).raise_if_failed()
    assert report.verdict("bits in any batch") is Verdict.NOT_CLAIMED


# --------------------------------------------------------------------------------------------------- wrappers of others


class NeedsCharges(Morse):
    """Takes nothing but charged atoms in periodic cells."""

    def __init__(self, needed: str = "charges") -> None:
        super().__init__()
        config = self.model_config.model_dump() | {"required_inputs": {needed}, "needs_pbc": True}
        self.model_config = ModelConfig(**config)

    def pair_energy(self, r: torch.Tensor) -> torch.Tensor:
        return 0.3 * super().pair_energy(r)

    def forward(self, data: Any, **kwargs: Any) -> Any:
        assert bool(data.charges.isfinite().all())
        return super().forward(data)


@pytest.mark.parametrize(
    ("model", "absent"),
    [
        (twins.EnergyOnly(), {"forces", "sign of forces", "stress", "sign of stress", "sum of forces"}),
        (twins.NoStress(), {"stress", "sign of stress", "images", "other cell", "handedness", "extensivity"}),
        (twins.WithoutList(), {"stress", "sign of stress", "isolation", "no pairs"}),
        (NeedsCharges(), {"isolation"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_wrapper_does_not_have_is_not_asked_of_it(model: Morse, absent: set[str]) -> None:
    report = check_model(model).raise_if_failed()
    assert verdicts(report, Verdict.NOT_APPLICABLE) >= absent
    assert verdicts(report, Verdict.PASSED) >= {"outputs", "permutation", "companions", "inputs", "detached", "memory"}


def test_a_model_that_evaluates_nothing_gets_a_report_too() -> None:
    class Refuses(Morse):
        def forward(self, data: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no licence")

    report = check_model(Refuses())
    assert "outputs" in failed(report)
    assert "raises RuntimeError: no licence" in str(report)
    assert report.verdict("rotation") is Verdict.NOT_APPLICABLE


def test_the_model_is_as_it_was_and_its_warnings_are_in_the_report() -> None:
    class Warns(Morse):
        def forward(self, data: Any, **kwargs: Any) -> Any:
            import warnings

            warnings.warn("slow", UserWarning, stacklevel=1)
            return super().forward(data)

    model = Warns().train()
    before = copy.deepcopy(model.model_config)
    report = check_model(model, SYSTEMS, checks=["inputs"])
    assert model.training
    assert model.model_config == before
    assert report.warnings == ["slow"]


def test_a_cutoff_that_nobody_named_is_found() -> None:
    report = check_model(twins.HidesItsCutoff(smooth=True))
    assert failed(report) == {"smoothness"}
    assert "jump of the forces at 4.4 Å" in str(report)
    check_model(twins.WithoutList(smooth=True)).raise_if_failed()


@pytest.mark.parametrize("cutoff", [5.0, 3.0])
def test_a_jump_is_found_at_any_distance(cutoff: float) -> None:
    model = twins.HardCutoff()
    bench = ModelBench(model, torch.float64)
    bench.put_on(list(SYSTEMS.values()))
    assert any(jump.error > jump.bound for jump in jumps(bench, cutoff)) == (cutoff == model.cutoff)


# ------------------------------------------------------------------------------------------------------------- the call


def test_the_report_is_read_by_people_and_by_programs() -> None:
    report = check_model(twins.WrongSignOfForces(), SYSTEMS)
    text = repr(report)
    assert text.splitlines()[0].split() == ["model", "Morse", "(WrongSignOfForces)"]
    assert "failed: forces of " in text
    assert "cluster" in text.partition("failed: forces of ")[2].partition("forces against differences")[0]
    assert all(f"{check:<22}" in text for check in CHECKS)
    assert len(report.table(all_rows=True).splitlines()) > len(text.splitlines()) + 40
    document = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert document["ok"] is False
    assert len(document["rows"]) == len(report.rows)
    row = next(row for row in document["rows"] if row["check"] == "forces")
    assert row.keys() == {"check", "system", "verdict", "error", "bound", "note", "claims", "holds"}


def test_some_checks_can_be_chosen() -> None:
    report = check_model(Morse(), SYSTEMS, checks={"rotation", "inputs"})
    assert list(report.checks) == ["rotation", "inputs"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((torch.nn.Linear(1, 1), {}), ContractError, "`model` is a Linear; pass a wrapper"),
        ((Morse(), {"checks": ["rotations"]}), InputError, "no check `rotations`. Did you mean `rotation`"),
        ((NeedsCharges("magic"), {}), InputError, "requires `magic`, for which the kit has no values. Pass systems"),
        ((Morse(), {"dtype": torch.float16}), InputError, "float16"),
    ],
    ids=["model", "check", "input", "dtype"],
)
def test_mistakes_of_the_call_are_told(
    arguments: tuple[Any, dict[str, Any]], error: type[Exception], text: str
) -> None:
    model, keywords = arguments
    with pytest.raises(error, match=text):
        check_model(model, **keywords)


def test_every_check_says_what_it_asks_for() -> None:
    assert all(check.says.endswith(".") for check in CHECKS.values())
    assert {name for check in CHECKS.values() for name in check.claims} - {"units"} <= set(ModelCard.__slots__)
