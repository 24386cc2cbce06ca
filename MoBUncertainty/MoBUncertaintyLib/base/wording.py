"""How numbers are written for a reader."""

from __future__ import annotations


def percent(fraction: float) -> str:
    """Write a fraction in whole percent, with a space before the sign as before a unit.

    Example:
        >>> percent(0.9)
        '90 %'
    """
    return f"{100 * fraction:.0f} %"
