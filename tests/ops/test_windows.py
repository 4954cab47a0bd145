"""Windows and their shift, written out by hand and beside the original's slices."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.ops.windows import (
    extents,
    from_windows,
    relative_position_index,
    shift_regions,
    to_windows,
)


def attended(sizes, height, width, size, shift):
    """(b, window, query, key), True where a shifted window attends."""
    labels = np.asarray(shift_regions(jnp.array(sizes), height, width, size, shift))
    return labels[..., :, None] == labels[..., None, :]


def test_windows_go_row_by_row_and_end_in_zeros():
    x = jnp.arange(1, 10).reshape(1, 3, 3, 1)
    wanted = [[[1, 2], [4, 5]], [[3, 0], [6, 0]], [[7, 8], [0, 0]], [[9, 0], [0, 0]]]
    np.testing.assert_array_equal(to_windows(x, 2)[0, ..., 0], wanted)


def test_a_shift_wraps_the_filled_up_map_around():
    x = jnp.arange(1, 10).reshape(1, 3, 3, 1)
    wanted = [[[5, 6], [8, 9]], [[0, 4], [0, 7]], [[0, 0], [2, 3]], [[0, 0], [0, 1]]]
    np.testing.assert_array_equal(to_windows(x, 2, 1)[0, ..., 0], wanted)


@pytest.mark.parametrize("shift", [0, 3])
def test_windows_are_undone(shift):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 10, 15, 3)))
    windows = to_windows(x, 7, shift)
    assert windows.shape == (2, 6, 7, 7, 3)
    np.testing.assert_array_equal(from_windows(windows, 10, 15, shift), x)


def test_the_mask_of_a_shift_by_hand():
    """A map of 4 × 4 in windows of 2, shifted by 1: only rows 1, 2 and columns 1, 2 are
    neighbours; row 3 meets row 0, and column 3 column 0."""
    everywhere = [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    right = [[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]
    below = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    corner = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    wanted = [everywhere, right, below, corner]
    np.testing.assert_array_equal(attended([[4, 4]], 4, 4, 2, 1)[0], np.array(wanted, bool))


def slices(height, width, size, shift):
    """Nine regions by slices, as the original has them; only valid on whole windows."""
    regions = np.zeros((height, width), int)
    cuts = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            regions[rows, columns] = 3 * i + j
    windows = np.asarray(to_windows(jnp.asarray(regions)[None, ..., None], size)).reshape(
        -1, size * size
    )
    return windows[:, :, None] == windows[:, None, :]


@pytest.mark.parametrize(("height", "width", "size"), [(7, 7, 7), (3, 20, 7), (30, 13, 12)])
def test_the_mask_is_the_originals_on_whole_windows(height, width, size):
    shift = size // 2
    wanted = slices(height + -height % size, width + -width % size, size, shift)
    got = attended([[height, width]], height, width, size, shift)[0]
    np.testing.assert_array_equal(got, wanted)


def test_an_image_on_a_canvas_attends_to_its_own_windows_only():
    """Rows 1 to 3 of an image of 3, windows of 2: row 3 fills its last window up and is attended,
    row 4 is beyond it. Columns of one window each keep them out of the matter."""
    rows = attended([[3, 1]], 8, 1, 2, 1)[0, ::1, ::2, ::2]
    # windows hold rows (1, 2), (3, 4), (5, 6) and (7, 0)
    neighbours = [[1, 1], [1, 1]]
    apart = [[1, 0], [0, 1]]
    wanted = np.array([neighbours, apart, neighbours, apart], bool)
    np.testing.assert_array_equal(rows, wanted)


def test_extents_are_those_of_the_corner_that_is_real():
    mask = np.zeros((3, 5, 6), bool)
    mask[0, :2, :3], mask[1] = True, True
    np.testing.assert_array_equal(extents(jnp.asarray(mask)), [[2, 3], [5, 6], [0, 0]])


def test_offsets_are_query_minus_key_rows_first():
    wanted = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    np.testing.assert_array_equal(relative_position_index(2), wanted)
