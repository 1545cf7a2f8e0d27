"""The models that athanor knows by name, one row each."""

from __future__ import annotations

from athanor._optional import OptionalDependency
from athanor.models.entry import ModelEntry

_MPTRJ = "MPtrj: relaxations of the Materials Project, PBE and PBE+U"

BUILT_IN: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        *(
            ModelEntry(
                name=name,
                kind="machine-learned",
                home="athanor.models.chgnet:CHGNetWrapper.from_checkpoint",
                num_elements=89,
                licence="BSD-3-Clause, modified",
                summary=f"{summary}, with magnetic moments",
                requires=OptionalDependency.CHGNET,
                weights="shipped",
                training_set=training_set,
                arguments=arguments,
            )
            for name, summary, training_set, arguments in (
                ("chgnet", "CHGNet 0.3.0 (PBE): universal potential for inorganic crystals", _MPTRJ, {}),
                ("chgnet-0.2.0", "CHGNet 0.2.0 (PBE): the parameters before 0.3.0", _MPTRJ, {"name": "0.2.0"}),
                ("chgnet-r2scan", "CHGNet fine-tuned to r2SCAN", f"{_MPTRJ}, then r2SCAN", {"name": "r2scan"}),
            )
        ),
        ModelEntry(
            name="mace",
            kind="machine-learned",
            home="athanor.models.mace:MACEWrapper.from_checkpoint",
            licence="MIT, parameters under terms of their own",
            summary="MACE: checkpoint_path is your file or a published name; trust=true, for its files are pickles",
            requires=OptionalDependency.MACE,
            weights="yours",
        ),
        ModelEntry(
            name="aimnet2",
            kind="machine-learned",
            home="athanor.models.aimnet2:aimnet2_potential",
            num_elements=14,
            licence="MIT, parameters under terms of their own",
            summary="AIMNet2 with its Coulomb sum and D3: checkpoint_path is your file or a published name, aimnet2nse",
            requires=OptionalDependency.AIMNET,
            weights="downloaded",
            training_set="molecules up to 20 atoms beside hydrogen, neutral and charged, wB97M-D3",
            citation="doi:10.1039/D4SC08572H",
            url="https://github.com/isayevlab/aimnetcentral",
            inputs=("charge", "spin"),
        ),
        ModelEntry(
            name="nequip",
            kind="machine-learned",
            home="athanor.models.nequip:NequIPWrapper.from_checkpoint",
            licence="MIT, parameters under terms of their own",
            summary="NequIP and Allegro: checkpoint_path is your package, checkpoint or compiled model; trust=true",
            requires=OptionalDependency.NEQUIP,
            weights="yours",
            citation="doi:10.1038/s41467-022-29939-5",
            url="https://github.com/mir-group/nequip",
        ),
        ModelEntry(
            name="lennard-jones",
            kind="pair potential",
            home="athanor.models.lj:LennardJonesModelWrapper",
            licence="Apache-2.0",
            summary="Lennard-Jones with your parameters: epsilon (eV), sigma (Å), cutoff (Å)",
        ),
        ModelEntry(
            name="ewald",
            kind="electrostatics",
            home="athanor.models.ewald:EwaldModelWrapper",
            licence="Apache-2.0",
            summary="Ewald sum of charges to an asked accuracy: cutoff (Å), charges by element, or of the files",
        ),
        ModelEntry(
            name="pme",
            kind="electrostatics",
            home="athanor.models.pme:PMEModelWrapper",
            licence="Apache-2.0",
            summary="The Ewald sum on a mesh, for more than some three hundred atoms: cutoff (Å), charges",
        ),
        ModelEntry(
            name="dsf",
            kind="electrostatics",
            home="athanor.models.dsf:DSFModelWrapper",
            licence="Apache-2.0",
            summary="Charges within a cutoff, by the damped shifted force: cutoff (Å), charges",
        ),
        ModelEntry(
            name="qeq",
            kind="electrostatics",
            home="athanor.models.qeq:QEqModelWrapper",
            licence="Apache-2.0",
            summary="Charge equilibration: electronegativity (eV/e), hardness (eV/e²), width (Å), cutoff (Å)",
        ),
        ModelEntry(
            name="d3",
            kind="dispersion",
            home="athanor.models.dftd3:DFTD3ModelWrapper.from_functional",
            num_elements=94,
            licence="Apache-2.0",
            summary="D3 dispersion to add to a potential that was fitted without: functional (PBE), damping (bj)",
        ),
        ModelEntry(
            name="d4",
            kind="dispersion",
            home="athanor.models.dftd4:DFTD4ModelWrapper",
            num_elements=103,
            licence="LGPL-3.0-or-later",
            summary="D4 dispersion by its library, one system at a time: functional (PBE)",
            requires=OptionalDependency.DFTD4,
        ),
        ModelEntry(
            name="demo",
            kind="demo",
            home="athanor.models.demo:build_demo_model",
            num_elements=99,
            licence="Apache-2.0",
            summary="small random network for tests and tutorials; its numbers mean nothing",
        ),
    )
}
ALIASES: dict[str, str] = {"allegro": "nequip", "lj": "lennard-jones", "chgnet-0.3.0": "chgnet", "dftd3": "d3", "dftd4": "d4"}
"""Other names of them."""
