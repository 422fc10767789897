"""Few cases of a grid of parameters: each value, or each pair of values, in place of all combinations."""

from collections import Counter
from itertools import combinations

SIZES = {"every_value": 1, "every_pair": 2}


def covering(cells, size):
    """Return the positions of few `cells` in which each combination of `size` values occurs that occurs in any.

    Each cell is a dict of values by parameter. The cell with most that is still missing is taken next; of equal ones
    that whose values were used least, so that the values of a short list take turns.
    """
    size = min(size, *map(len, cells))
    holds = [set(combinations(sorted(cell.items()), size)) for cell in cells]
    missing, used, kept = set().union(*holds), Counter(), []
    while missing:
        at = max(
            range(len(cells)), key=lambda i: (len(holds[i] & missing), -sum(used[v] for v in cells[i].items()), -i)
        )
        missing -= holds[at]
        used.update(cells[at].items())
        kept.append(at)
    return sorted(kept)


def _cell(item):
    """Return what each decorator and each fixture with parameters gives to a case."""
    params = {name: id(value) for name, value in item.callspec.params.items()}
    cell = {}
    for mark in item.iter_markers("parametrize"):
        names = mark.args[0]
        names = tuple(name.strip() for name in names.split(",")) if isinstance(names, str) else tuple(names)
        cell[names] = tuple(params.pop(name) for name in names)
    return cell | {(name,): value for name, value in params.items()}


def left_out(items):
    """Return the places of the tests that the marks `every_value` and `every_pair` leave out of a run."""
    grids: dict[tuple, list[int]] = {}
    for at, item in enumerate(items):
        size = min((SIZES[mark.name] for mark in item.iter_markers() if mark.name in SIZES), default=None)
        if size and hasattr(item, "callspec"):
            grids.setdefault((item.parent.nodeid, item.originalname, size), []).append(at)
    found: set[int] = set()
    for (_, _, size), places in grids.items():
        kept = covering([_cell(items[at]) for at in places], size)
        found.update(set(places) - {places[at] for at in kept})
    return found
