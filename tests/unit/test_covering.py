"""Which cases of a grid are left: every value or pair of values that any case has, in few of them."""

from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covering import covering


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(1, 2))
def test_nothing_is_missing_and_few_cases_are_left(lengths, size):
    cells = [dict(enumerate(cell)) for cell in product(*map(range, lengths))]
    kept = covering(cells, size)

    def parts(places):
        return {part for at in places for part in combinations(cells[at].items(), min(size, len(lengths)))}

    assert parts(kept) == parts(range(len(cells)))
    longest = sorted(lengths)[-size:]
    assert len(kept) <= (max(lengths) if size == 1 else 2 * longest[0] * longest[-1])


def test_a_hole_of_the_grid_stays_a_hole():
    cells = [{"a": a, "b": b} for a, b in product(range(3), range(3)) if a != b]
    assert covering(cells, 2) == list(range(6))


@pytest.mark.every_value
@pytest.mark.parametrize(("x", "y"), [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("z", [3, 4])
def test_rows_of_one_decorator_stay_together(request, x, y, z):
    name = request.function.__name__
    names = {item.name for item in request.session.items if getattr(item, "originalname", "") == name}
    assert len(names) <= 3
