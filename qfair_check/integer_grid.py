"""Integer grids: which codes there are at a number of bits."""

from typing import Literal, get_args

from qfair_check.errors import OptionError

Grid = Literal["symmetric", "full", "asymmetric"]
GRIDS: tuple[Grid, ...] = get_args(Grid)


def integer_range(bits: int, grid: Grid) -> tuple[int, int]:
    """Return the lowest and the highest code of a grid.

    Parameters
    ----------
    bits : int
        2 to 8.
    grid : str

    Raises
    ------
    OptionError
        If there is no integer grid of so many bits.

    Examples
    --------
    >>> integer_range(4, "symmetric"), integer_range(4, "full"), integer_range(4, "asymmetric")
    ((-7, 7), (-8, 7), (0, 15))
    """
    if not 2 <= bits <= 8:
        raise OptionError(f"there is no integer grid of {bits} bits: it is 2 to 8")
    if grid == "asymmetric":
        return 0, 2**bits - 1
    highest = 2 ** (bits - 1) - 1
    return (-highest if grid == "symmetric" else -highest - 1), highest
