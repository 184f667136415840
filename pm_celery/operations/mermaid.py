"""A diagram as Mermaid text."""

from __future__ import annotations

from pm_celery.operations.diagram import Arrow, Box, Diagram

__all__ = ["mermaid"]

_SHAPES = {
    "event": ("[", "]"),
    "timer": ("{{", "}}"),
    "timeout": ("{{", "}}"),
    "command_failed": ("[/", "/]"),
    "failure": ("[/", "/]"),
}


def mermaid(found: Diagram) -> str:
    """A flowchart: boxes are messages with their handlers, round ones are statuses."""
    lines = [f"%% {_one_line(found.process)}", "flowchart TD"]
    lines += [f"    {_box(found, box)}" for box in found.boxes]
    lines += [
        f'    {ending.id}(["{_text(ending.status.replace("_", " "))}"])' for ending in found.endings
    ]
    if any(box.comes == "start" for box in found.boxes):
        lines.append("    start((start))")
    if any(box.comes == "elsewhere" for box in found.boxes):
        lines.append('    elsewhere(["from elsewhere"])')
    links = [(f"{box.comes} --> {box.id}", 1 in box.taken) for box in found.boxes if box.comes]
    links += [(_link(found, arrow), arrow.taken) for arrow in found.arrows]
    lines += [f"    {text}" for text, _taken in links]
    lines += _marks(found, [at for at, (_text, taken) in enumerate(links) if taken])
    lines += [f"%% not known: {_one_line(str(note))}" for note in found.notes]
    return "\n".join(lines) + "\n"


def _box(found: Diagram, box: Box) -> str:
    titles = {
        "event": found.short(box.name),
        "timer": f"timer {box.name}",
        "timeout": "timeout",
        "command_failed": f"{found.short(box.name)} failed",
        "failure": "anything else failed",
    }
    shown = [titles[box.sort]]
    shown += [f"sends {found.short(name)}" for name in box.sends]
    shown += [f"sets timer {name}" for name in box.sets]
    if box.taken:
        shown[0] += " #" + ", ".join(map(str, box.taken[:10])) + ("…" if box.taken[10:] else "")
    opening, closing = _SHAPES[box.sort]
    return f'{box.id}{opening}"{"<br/>".join(map(_text, shown))}"{closing}'


def _link(found: Diagram, arrow: Arrow) -> str:
    line = "-.->" if arrow.sort in ("timer", "command_failed") else "-->"
    label = f'|"{_text(found.short(arrow.label))}"|' if arrow.label else ""
    return f"{arrow.source} {line}{label} {arrow.target}"


def _marks(found: Diagram, taken_links: list[int]) -> list[str]:
    taken = [box.id for box in found.boxes if box.taken]
    taken += [ending.id for ending in found.endings if ending.taken]
    if not taken:
        return []
    lines = [
        "    classDef taken stroke:#2a7ae2,stroke-width:3px",
        f"    class {','.join(taken)} taken",
    ]
    if taken_links:
        links = ",".join(map(str, taken_links))
        lines.append(f"    linkStyle {links} stroke:#2a7ae2,stroke-width:3px")
    return lines


def _text(text: str) -> str:
    """Any text between Mermaid's quotes: what is no letter, digit or plain sign goes by its number."""
    return "".join(
        char if char.isalnum() or char in " .,:_-()…" else f"#{ord(char)};" for char in text[:100]
    )


def _one_line(text: str) -> str:
    """Any text in a comment, which ends with its line and begins no directive."""
    return "".join(char if char.isalnum() or char in " .,:_-()'" else " " for char in text[:200])
