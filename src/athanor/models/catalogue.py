"""The models that athanor knows by name, one row each."""

from __future__ import annotations

from athanor._optional import OptionalDependency
from athanor.models.entry import ModelEntry

_MPTRJ = "MPtrj: relaxations of the Materials Project, PBE and PBE+U"
_TWO_FIDELITIES = f"{_MPTRJ}; and r2SCAN calculations of the Materials Project"

_ACADEMIC = "ASL: academic use only"
_OMAT, _OMOL = "OMat24, PBE and PBE+U", "OMol25, ωB97M-V"
_MACE: tuple[tuple[tuple[str, ...], int, str, str, str, str, tuple[str, ...]], ...] = (
    (("small", "medium", "large"), 89, "MIT", "MACE-MP-0, materials", _MPTRJ, "2401.00096", ()),
    (("medium-0b3",), 89, "MIT", "MACE-MP-0b3, materials, also under pressure", _MPTRJ, "2401.00096", ()),
    (("medium-mpa-0",), 89, "MIT", "MACE-MPA-0, materials", f"{_MPTRJ}, and Alexandria", "2401.00096", ()),
    (("small-omat-0", "medium-omat-0"), 89, _ACADEMIC, "MACE-OMAT-0, materials", _OMAT, "2401.00096", ()),
    (("mace-matpes-pbe-0",), 89, _ACADEMIC, "MACE-MATPES, materials, PBE", "MatPES, PBE", "2401.00096", ()),
    (("mace-matpes-r2scan-0",), 89, _ACADEMIC, "MACE-MATPES, materials, r2SCAN", "MatPES, r2SCAN", "2401.00096", ()),
    (
        ("mh-0", "mh-1"),
        89,
        _ACADEMIC,
        "MACE-MH, crystals, surfaces and molecules by head",
        f"{_OMAT}; OC20; MatPES; {_OMOL}",
        "2401.00096",
        (),
    ),
    (
        ("off-small", "off-medium", "off-large"),
        10,
        _ACADEMIC,
        "MACE-OFF23, organic molecules",
        "SPICE, ωB97M-D3",
        "2312.15211",
        (),
    ),
    (("omol",), 89, _ACADEMIC, "MACE-OMOL-0, molecules and ions", _OMOL, "2401.00096", ("charge", "spin")),
)
"""Names, elements, licence, summary, training set, preprint and inputs of networks that mace-torch can get."""

_ORB = (
    *(
        (
            f"orb-v3-{kind}-{limit}-{data}",
            f"ORB v3, {says}, {'nearest 20' if limit == '20' else 'up to 120'} neighbours",
            training_set,
            "2504.06231",
            (),
        )
        for data, training_set in (
            ("omat", _OMAT),
            ("mpa", "MPtrj and Alexandria, PBE and PBE+U"),
        )
        for kind, says in (("conservative", "conservative"), ("direct", "predicted forces"))
        for limit in ("inf", "20")
    ),
    *(
        (f"orb-v3-{kind}-omol", f"ORB v3 for molecules, {says}", _OMOL, "2504.06231", ("charge", "spin"))
        for kind, says in (("conservative", "conservative"), ("direct", "predicted forces"))
    ),
    (
        "orbmol-v2",
        "ORB for molecules, conservative, with charges",
        f"{_OMOL}, and OPoly26",
        "2504.06231",
        ("charge", "spin"),
    ),
    ("orb-v2", "ORB v2, predicted forces, nearest 20 neighbours", "MPtrj and Alexandria, PBE", "2410.22570", ()),
)
"""Name, summary, training set, preprint and inputs of each."""

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
                kilobytes_per_atom=400,
                most_atoms=2048,
                arguments=arguments,
            )
            for name, summary, training_set, arguments in (
                ("chgnet", "CHGNet 0.3.0 (PBE): universal potential for inorganic crystals", _MPTRJ, {}),
                ("chgnet-0.2.0", "CHGNet 0.2.0 (PBE): the parameters before 0.3.0", _MPTRJ, {"name": "0.2.0"}),
                ("chgnet-r2scan", "CHGNet fine-tuned to r2SCAN", f"{_MPTRJ}, then r2SCAN", {"name": "r2scan"}),
            )
        ),
        *(
            ModelEntry(
                name=name,
                kind="machine-learned",
                home="athanor.models.sevennet:SevenNetWrapper.from_checkpoint",
                num_elements=89,
                licence="MIT",
                summary=summary,
                requires=OptionalDependency.SEVENN,
                weights="shipped",
                training_set=training_set,
                citation=citation,
                url="https://github.com/MDIL-SNU/SevenNet",
                kilobytes_per_atom=kilobytes,
                arguments=arguments,
            )
            for name, summary, training_set, citation, kilobytes, arguments in (
                (
                    "7net-0",
                    "SevenNet-0 of 11 July 2024 (PBE): universal potential for inorganic crystals",
                    _MPTRJ,
                    "doi:10.1021/acs.jctc.4c00190",
                    700,
                    {"checkpoint": "7net-0"},
                ),
                (
                    "7net-0-22may2024",
                    "SevenNet-0 of 22 May 2024 (PBE): the parameters before",
                    _MPTRJ,
                    "doi:10.1021/acs.jctc.4c00190",
                    700,
                    {"checkpoint": "7net-0-22may2024"},
                ),
                (
                    "7net-l3i5",
                    "SevenNet-l3i5 (PBE): features of one degree more, three times the time",
                    _MPTRJ,
                    "doi:10.1021/acs.jctc.4c00190",
                    1000,
                    {"checkpoint": "7net-l3i5"},
                ),
                (
                    "7net-mf-0-pbe",
                    "SevenNet-MF-0, task PBE: fitted to two functionals at once",
                    _TWO_FIDELITIES,
                    "doi:10.1021/jacs.4c14455",
                    700,
                    {"checkpoint": "7net-mf-0", "task": "PBE"},
                ),
                (
                    "7net-mf-0-r2scan",
                    "SevenNet-MF-0, task R2SCAN: fitted to two functionals at once",
                    _TWO_FIDELITIES,
                    "doi:10.1021/jacs.4c14455",
                    700,
                    {"checkpoint": "7net-mf-0", "task": "R2SCAN"},
                ),
            )
        ),
        ModelEntry(
            name="sevennet",
            kind="machine-learned",
            home="athanor.models.sevennet:SevenNetWrapper.from_checkpoint",
            licence="MIT, parameters under terms of their own",
            summary="SevenNet: checkpoint is your file, task one of its tasks if it has several",
            requires=OptionalDependency.SEVENN,
            weights="yours",
            url="https://github.com/MDIL-SNU/SevenNet",
        ),
        ModelEntry(
            name="so3lr",
            kind="machine-learned",
            home="athanor.models.so3lr:SO3LRWrapper.from_checkpoint",
            num_elements=8,
            licence="MIT",
            summary="SO3LR: molecules of H, C, N, O, F, P, S and Cl, with charges, electrostatics and dispersion",
            requires=OptionalDependency.SO3KRATES,
            weights="shipped",
            training_set="molecules and complexes, neutral and charged, PBE0+MBD",
            citation="doi:10.1021/jacs.5c09558",
            url="https://github.com/tohenkes/So3krates-torch",
            inputs=("charge", "spin"),
            kilobytes_per_atom=2000,
        ),
        ModelEntry(
            name="diep",
            kind="machine-learned",
            home="athanor.models.diep:DIEPWrapper.from_checkpoint",
            num_elements=89,
            licence="BSD-3-Clause",
            summary="DIEP (r2SCAN): universal potential with two- and three-body integrals; its energy has small steps",
            requires=OptionalDependency.DIEP,
            weights="shipped",
            training_set="MatPES r2SCAN",
            citation="doi:10.1039/d4dd00246f",
            url="https://github.com/materialsalchemist/diep",
            kilobytes_per_atom=5000,
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
        *(
            ModelEntry(
                name=f"mace-{name.removeprefix('mace-')}",
                kind="machine-learned",
                home="athanor.models.mace:MACEWrapper.from_checkpoint",
                num_elements=num_elements,
                licence=licence,
                summary=f"{summary}; trust=true, for its file is a pickle",
                requires=OptionalDependency.MACE,
                weights="downloaded",
                training_set=training_set,
                citation=f"doi:10.48550/arXiv.{preprint}",
                url="https://github.com/ACEsuit/mace-foundations",
                inputs=inputs,
                arguments={"checkpoint_path": name},
            )
            for names, num_elements, licence, summary, training_set, preprint, inputs in _MACE
            for name in names
        ),
        *(
            ModelEntry(
                name=name,
                kind="machine-learned",
                home="athanor.models.orb:OrbWrapper.from_checkpoint",
                num_elements=117,
                licence="Apache-2.0",
                summary=summary,
                requires=OptionalDependency.ORB,
                weights="downloaded",
                training_set=training_set,
                citation=f"doi:10.48550/arXiv.{preprint}",
                url="https://github.com/orbital-materials/orb-models",
                kilobytes_per_atom=6000,
                inputs=inputs,
                arguments={"name": name},
            )
            for name, summary, training_set, preprint, inputs in _ORB
        ),
        *(
            ModelEntry(
                name=name,
                kind="machine-learned",
                home="athanor.models.mattersim:MatterSimWrapper.from_checkpoint",
                num_elements=94,
                licence="MIT",
                summary=summary,
                requires=OptionalDependency.MATTERSIM,
                weights="downloaded",
                training_set="structures of its authors over temperature and pressure, PBE and PBE+U",
                citation="doi:10.48550/arXiv.2405.04967",
                url="https://github.com/microsoft/mattersim",
                kilobytes_per_atom=kilobytes,
                arguments=arguments,
            )
            for name, kilobytes, summary, arguments in (
                ("mattersim", 8000, "MatterSim: checkpoint_path is your file, or a published name (1m)", {}),
                *(
                    (
                        each,
                        kilobytes,
                        f"MatterSim v1, {says}: bulk materials, hot and under pressure",
                        {"checkpoint_path": each},
                    )
                    for each, kilobytes, says in (
                        ("mattersim-v1.0.0-1m", 3000, "the small one"),
                        ("mattersim-v1.0.0-5m", 8000, "the large one"),
                    )
                ),
            )
        ),
        ModelEntry(
            name="uma",
            kind="machine-learned",
            home="athanor.models.uma:UMAWrapper.from_checkpoint",
            licence="MIT, parameters under the FAIR Chemistry License",
            summary="UMA and eSEN of fairchem: name_or_path, task_name (omol, omat, oc20, odac, omc), trust=true",
            requires=OptionalDependency.UMA,
            weights="downloaded",
            training_set="OMol25, OMat24, OC20, ODAC25 and OMC25, one task each",
            citation="doi:10.48550/arXiv.2506.23971",
            url="https://fair-chem.github.io",
            inputs=("charge", "spin"),
            kilobytes_per_atom=15_000,
        ),
        ModelEntry(
            name="metatomic",
            kind="machine-learned",
            home="athanor.models.metatomic:MetatomicWrapper.from_checkpoint",
            licence="BSD-3-Clause, parameters under terms of their own",
            summary="Any model that metatomic exports, such as PET: checkpoint_path is your file; trust=true",
            requires=OptionalDependency.METATOMIC,
            weights="yours",
            citation="doi:10.48550/arXiv.2508.15704",
            url="https://docs.metatensor.org/metatomic",
            inputs=("charge", "spin"),
            kilobytes_per_atom=3000,
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
            training_set="neutral and charged molecules, wB97M-D3/def2-TZVPP",
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
            kilobytes_per_atom=40_000,
        ),
        ModelEntry(
            name="lennard-jones",
            kind="pair potential",
            home="athanor.models.lj:LennardJonesModelWrapper",
            licence="Apache-2.0",
            summary="Lennard-Jones with your parameters: epsilon (eV), sigma (Å), cutoff (Å)",
            kilobytes_per_atom=25,
        ),
        ModelEntry(
            name="morse",
            kind="pair potential",
            home="athanor.models.morse:MorseModelWrapper",
            licence="Apache-2.0",
            summary="Morse with your parameters: depth (eV), steepness (1/Å), distance (Å), cutoff (Å)",
            kilobytes_per_atom=25,
        ),
        ModelEntry(
            name="buckingham",
            kind="pair potential",
            home="athanor.models.buckingham:BuckinghamModelWrapper",
            licence="Apache-2.0",
            summary="Buckingham with your parameters: repulsion (eV), length (Å), dispersion (eV Å⁶), cutoff (Å)",
            kilobytes_per_atom=25,
        ),
        ModelEntry(
            name="zbl",
            kind="pair potential",
            home="athanor.models.zbl:ZBLModelWrapper",
            num_elements=118,
            licence="Apache-2.0",
            summary="ZBL repulsion of nuclei, to add to a potential for short distances: inner (Å), outer (Å)",
            kilobytes_per_atom=25,
        ),
        ModelEntry(
            name="stillinger-weber",
            kind="many-body potential",
            home="athanor.models.stillinger_weber:StillingerWeberModelWrapper.from_file",
            licence="Apache-2.0, parameters of your file",
            summary="Stillinger-Weber: path of a .sw file",
            weights="yours",
            kilobytes_per_atom=25,
        ),
        ModelEntry(
            name="eam",
            kind="many-body potential",
            home="athanor.models.eam:EAMModelWrapper.from_file",
            licence="Apache-2.0, parameters of your file",
            summary="Embedded atom: path of an eam.alloy (setfl), eam.fs or eam (funcfl) file",
            weights="yours",
            kilobytes_per_atom=25,
        ),
        ModelEntry(
            name="ewald",
            kind="electrostatics",
            home="athanor.models.ewald:EwaldModelWrapper",
            licence="Apache-2.0",
            summary="Ewald sum of charges to an asked accuracy: cutoff (Å), charges by element, or of the files",
            kilobytes_per_atom=25,
        ),
        ModelEntry(
            name="pme",
            kind="electrostatics",
            home="athanor.models.pme:PMEModelWrapper",
            licence="Apache-2.0",
            summary="The Ewald sum on a mesh, for more than some three hundred atoms: cutoff (Å), charges",
            kilobytes_per_atom=25,
        ),
        ModelEntry(
            name="dsf",
            kind="electrostatics",
            home="athanor.models.dsf:DSFModelWrapper",
            licence="Apache-2.0",
            summary="Charges within a cutoff, by the damped shifted force: cutoff (Å), charges",
            kilobytes_per_atom=25,
        ),
        ModelEntry(
            name="qeq",
            kind="electrostatics",
            home="athanor.models.qeq:QEqModelWrapper",
            licence="Apache-2.0",
            summary="Charge equilibration: electronegativity (eV/e), hardness (eV/e²), width (Å), cutoff (Å)",
            kilobytes_per_atom=100,
        ),
        ModelEntry(
            name="d3",
            kind="dispersion",
            home="athanor.models.dftd3:DFTD3ModelWrapper.from_functional",
            num_elements=94,
            licence="Apache-2.0",
            summary="D3 dispersion to add to a potential that was fitted without: functional (PBE), damping (bj)",
            kilobytes_per_atom=25,
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
            name="committee",
            kind="several models",
            home="athanor.models.committee:CommitteeModelWrapper.from_members",
            licence="those of its members",
            summary="mean of several models and how far they disagree: members, a list of models",
        ),
        ModelEntry(
            name="demo",
            kind="demo",
            home="athanor.models.demo:build_demo_model",
            num_elements=99,
            licence="Apache-2.0",
            summary="small random network for tests and tutorials; its numbers mean nothing",
            kilobytes_per_atom=25,
        ),
    )
}
ALIASES: dict[str, str] = {
    "allegro": "nequip",
    "lj": "lennard-jones",
    "sw": "stillinger-weber",
    "chgnet-0.3.0": "chgnet",
    "dftd3": "d3",
    "dftd4": "d4",
}
"""Other names of them."""
