"""Run everything small once, so that kernels are compiled into the cache before test processes start side by side."""

from __future__ import annotations


def main() -> None:
    from ase.build import bulk

    import athanor
    from athanor._optional import OptionalDependency

    argon = {"name": "lennard-jones", "epsilon": 0.0104, "sigma": 3.4, "cutoff": 6.0}
    crystal = bulk("Ar", "fcc", a=5.3, cubic=True)
    large = crystal.repeat(6)
    large.rattle(0.01, seed=0)
    for dtype in ("float64", "float32"):
        athanor.relax([crystal, large], model=argon, max_steps=2, dtype=dtype)
        athanor.md([crystal, large], model=argon, steps=2, dtype=dtype)
        athanor.md(crystal, model=argon | {"half_list": True}, steps=2, dtype=dtype)
        athanor.evaluate([crystal, large], model={"name": "d3", "cutoff": 6.0, "three_body": True}, dtype=dtype)
    if OptionalDependency.CHGNET.is_available():
        athanor.relax(bulk("NaCl", "rocksalt", a=5.6), max_steps=2)


if __name__ == "__main__":
    main()
