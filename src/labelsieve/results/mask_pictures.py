"""Pictures of images with the pixels marked whose labels are probably wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError
from labelsieve.results.pictures import open_pictures

if TYPE_CHECKING:
    from labelsieve.confident_learning.dtypes import Bools

# Of a marked pixel, the share of the color that marks it.
_MARK_SHARE: Final = 0.65
_MARK: Final = np.array([220, 30, 0], np.float64)
# Where there is no picture, the gray of the other pixels.
_GRAY: Final = 225


class MarkedPictures:
    """The pictures of all images, taken one at a time.

    Parameters
    ----------
    images : object, optional
        Pictures, as `open_pictures` takes them; without them, the masks alone are drawn.
    n_images : int
        Number of images.

    Raises
    ------
    InvalidInputError
        For another number of pictures, or anything but pictures.
    """

    def __init__(self, images: Any, n_images: int) -> None:
        self._pictures = None if images is None else open_pictures(images, n_images)

    def marked(self, image: int, mask: Bools) -> npt.NDArray[np.uint8]:
        """Return the ``(H, W, 3)`` picture of an image with the pixels of the ``(H, W)`` `mask` marked in red."""
        picture = np.full((*mask.shape, 3), _GRAY, np.float64)
        if self._pictures is not None:
            given = np.asarray(self._pictures.image(image).convert("RGB"))
            if given.shape != picture.shape:
                raise InvalidInputError(
                    f"the picture of image {image:,} has {given.shape[0]:,} x {given.shape[1]:,} pixels, its mask "
                    f"{mask.shape[0]:,} x {mask.shape[1]:,}"
                )
            picture[:] = given
        picture[mask] = picture[mask] * (1 - _MARK_SHARE) + _MARK * _MARK_SHARE
        return picture.astype(np.uint8)
