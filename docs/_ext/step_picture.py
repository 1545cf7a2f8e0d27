"""The directive ``step-picture``: one step of an engine as a drawing, with the colours of the page's theme.

Left the hooks, in the middle what the engine does, right where a failed system is found. The order is that of
`athanor.dynamics.driver.Driver.step`; names of hook stages are checked against `DynamicsStage`.
"""

from __future__ import annotations

from html import escape
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from athanor.hooks import DynamicsStage

ENGINE, HOOK, FAILURE = "engine", "hook", "failure"

LOOP = "each stage in turn, on its own systems"

STEPS: tuple[tuple[str, str, str, str], ...] = (
    # kind, title, text, what it is inside of
    (HOOK, "BEFORE_STEP", "", ""),
    (ENGINE, "arrivals", "on_enter: dof, fresh state, velocities", ""),
    (ENGINE, "newcomers", "results, for who has none yet", ""),
    (HOOK, "BEFORE_PRE_UPDATE", "", LOOP),
    (ENGINE, "pre_update", "first half: kick, drift, cell", LOOP),
    (HOOK, "AFTER_PRE_UPDATE", "", LOOP),
    (FAILURE, "cell collapsed?", "only where a stage moves it", ""),
    (HOOK, "BEFORE_COMPUTE", "neighbour lists", ""),
    (ENGINE, "the model", "one pass for all active systems", ""),
    (HOOK, "AFTER_COMPUTE", "may change forces", ""),
    (FAILURE, "not finite? too close?", "back to the last good state", ""),
    (HOOK, "BEFORE_POST_UPDATE", "", LOOP),
    (ENGINE, "post_update", "second half: kick, new forces", LOOP),
    (HOOK, "AFTER_POST_UPDATE", "", LOOP),
    (ENGINE, "count", "step, time, stage_step", ""),
    (ENGINE, "criteria and budgets", "who is done goes to the next stage", ""),
    (ENGINE, "commit", "this is the last whole step now", ""),
    (HOOK, "AFTER_STEP", "frames, log, progress", ""),
    (HOOK, "ON_CONVERGE", "once for each system", ""),
)

WIDTH = 760
HEADINGS = {HOOK: "hooks", ENGINE: "the engine", FAILURE: "where failures are found"}
COLUMNS = {HOOK: (8, 196), ENGINE: (250, 270), FAILURE: (566, 186)}
SPINE = 250 + 270 // 2


def drawing() -> str:
    """Return the SVG; lengths are those of its view box."""
    hooks = [title for kind, title, _, _ in STEPS if kind == HOOK]
    assert hooks == [stage.name for stage in DynamicsStage], "the picture and `DynamicsStage` disagree"
    parts, frames, top = [], [], 36
    for place, (kind, title, text, inside) in enumerate(STEPS):
        if inside and (not place or STEPS[place - 1][3] != inside):
            top += 30
            frames.append([top - 26, top])
        height = 54 if text else 44
        parts.append(_cell(kind, title, text, top + height // 2))
        top += height
        if inside and STEPS[place + 1][3] != inside:
            frames[-1][1] = top + 4
            top += 12
    rest = [f'<rect class="loop" x="2" y="{a}" width="{WIDTH - 222}" height="{b - a}" rx="8"/>' for a, b in frames]
    rest += [f'<text class="loop-name" x="14" y="{a + 17}">{LOOP}</text>' for a, _ in frames]
    for kind, heading in HEADINGS.items():
        left, width = COLUMNS[kind]
        rest.append(f'<text class="heading" x="{left + width // 2}" y="18">{heading}</text>')
    rest.append(f'<line class="spine" x1="{SPINE}" y1="46" x2="{SPINE}" y2="{top}"/>')
    rest.append(f'<path class="arrow" d="M{SPINE - 6} {top - 2} L{SPINE} {top + 8} L{SPINE + 6} {top - 2} Z"/>')
    body = "\n".join([*rest, *parts])
    label = "The order of one step: hooks, what the engine does, and where failures are found"
    return (
        f'<svg class="step-picture" viewBox="0 0 {WIDTH} {top + 12}" role="img" aria-label="{label}" '
        f'xmlns="http://www.w3.org/2000/svg">\n{body}\n</svg>'
    )


def _cell(kind: str, title: str, text: str, middle: int) -> str:
    left, width = COLUMNS[kind]
    high = 42 if text else 30
    box = f'<rect class="{kind}" x="{left}" y="{middle - high // 2}" width="{width}" height="{high}" rx="{6}"/>'
    center = left + width // 2
    name = f'<text class="{kind}-name" x="{center}" y="{middle - 3 if text else middle + 5}">{escape(title)}</text>'
    more = f'<text class="more" x="{center}" y="{middle + 14}">{escape(text)}</text>' if text else ""
    if kind == ENGINE:
        return box + name + more
    edge = left + width if kind == HOOK else left
    link = f'<line class="{kind}-link" x1="{edge}" y1="{middle}" x2="{SPINE}" y2="{middle}"/>'
    return link + f'<circle class="{kind}-dot" cx="{SPINE}" cy="{middle}" r="4.5"/>' + box + name + more


class StepPicture(SphinxDirective):
    """The drawing, in the page itself so that it takes the colours of the theme."""

    def run(self) -> list[nodes.Node]:
        """Return the SVG."""
        return [nodes.raw("", f'<figure class="step-picture">{drawing()}</figure>', format="html")]


def setup(app: Any) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("step-picture", StepPicture)
    return {"parallel_read_safe": True}
