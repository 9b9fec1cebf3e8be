"""Which reference pictures a model takes, and what is said about the others."""

import pytest

from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.model_files.references import ReferenceLimits

LIMITS = ReferenceLimits()


@pytest.mark.parametrize(
    ("size", "fitted"),
    [
        ((64, 64), (64, 64)),
        ((100, 79), (96, 64)),
        ((1024, 1024), (1024, 1024)),
        ((2048, 2048), (1024, 1024)),
        ((4000, 3000), (1168, 880)),
        ((512, 4096), (352, 2896)),
    ],
)
def test_a_picture_is_scaled_to_a_megapixel_and_cropped_to_the_multiple(size, fitted):
    assert LIMITS.fitted(size) == fitted


@pytest.mark.parametrize(
    ("sizes", "message", "hint"),
    [
        ([(64, 64)] * 5, "5 reference pictures, but this model takes 4", "leave out 1"),
        ([(40, 64)], "the reference picture is 40x64", "enlarge it to 64x103"),
        ([(64, 64), (63, 90)], "reference picture 2 is 63x90", "enlarge it to 64x92"),
        ([(1000, 100)], "1000x100, more than 8 times", "crop it to 800x100"),
        ([(70, 700)], "70x700", "crop it to 70x560"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_nearest_that_does(sizes, message, hint):
    with pytest.raises(InvalidInputError, match=message) as raised:
        LIMITS.check(sizes)
    assert hint in raised.value.hint


def test_all_that_fits_passes():
    LIMITS.check([(64, 512), (4096, 4096), (64, 64), (800, 100)])
    LIMITS.check([])
