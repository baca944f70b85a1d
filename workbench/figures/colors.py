"""Every colour of the project: chosen to be told apart by colour-blind people, on light and on dark ground."""

from __future__ import annotations

# Okabe & Ito 2008, without the black; blue and orange first, which are the safest pair.
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
BEFORE, AFTER = "#7f7f7f", "#0072B2"
AFTER_DARK = "#56B4E9"
EDGE = "#D55E00"

# Cividis (Nunez, Anderton & Renslow 2018) at 11 equal steps: even in lightness, the same to red-green-blind eyes.
SEQUENTIAL = (
    "#00224e",
    "#05366e",
    "#35456c",
    "#4f576c",
    "#666970",
    "#7d7c78",
    "#948e77",
    "#aea371",
    "#c8b866",
    "#e5cf52",
    "#fee838",
)


def rgb(color: str) -> tuple[int, int, int]:
    """#rrggbb as three numbers 0 to 255."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def plotly_scale(colors: tuple[str, ...] = SEQUENTIAL) -> list[list]:
    """A colour scale as plotly writes it: [[0, "#..."], ..., [1, "#..."]]."""
    return [[index / (len(colors) - 1), color] for index, color in enumerate(colors)]


def table(colors: tuple[str, ...] = SEQUENTIAL, size: int = 256) -> list[tuple[int, int, int]]:
    """`size` colours interpolated between the given ones, for pictures and canvases."""
    made = []
    for index in range(size):
        place = index / (size - 1) * (len(colors) - 1)
        low = min(int(place), len(colors) - 2)
        a, b, share = rgb(colors[low]), rgb(colors[low + 1]), place - low
        made.append(tuple(round(x + (y - x) * share) for x, y in zip(a, b, strict=True)))
    return made
