"""Pictures of images with the pixels marked whose labels are probably wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from labelsieve.errors import InvalidInputError
from labelsieve.results.report import as_bytes, open_images

if TYPE_CHECKING:
    from labelsieve.confident_learning.dtypes import Bools

# Of a marked pixel, the share of the color that marks it.
_MARK_SHARE: Final = 0.65
_MARK: Final = np.array([220, 30, 0], np.float64)
# Where there is no picture, the gray of the other pixels.
_GRAY: Final = 225


class Pictures:
    """The pictures of all images, taken one at a time.

    Parameters
    ----------
    images : (N, H, W) or (N, H, W, 3) array, path, or list of (H, W) or (H, W, 3) arrays; optional
        Pictures; without them, the masks alone are drawn.
    n_images : int
        Number of images.

    Raises
    ------
    InvalidInputError
        For another number of pictures, or anything but pictures.
    """

    def __init__(self, images: Any, n_images: int) -> None:
        self._images = images
        if isinstance(images, list | tuple):
            if len(images) != n_images:
                raise InvalidInputError(f"{len(images):,} pictures for {n_images:,} images: there must be one for each")
        elif images is not None:
            self._images = open_images(images, n_images)

    def marked(self, image: int, mask: Bools) -> npt.NDArray[np.uint8]:
        """Return the ``(H, W, 3)`` picture of an image with the pixels of the ``(H, W)`` `mask` marked in red."""
        picture = np.full((*mask.shape, 3), _GRAY, np.float64)
        if self._images is not None:
            given = self._pixels(image)
            if given.shape[:2] != mask.shape or given.ndim not in (2, 3) or given.shape[2:] not in ((), (1,), (3,)):
                raise InvalidInputError(
                    f"the picture of image {image:,} has shape {given.shape}, its mask {mask.shape}: pictures must "
                    "have shape (H, W) or (H, W, 3)"
                )
            picture[:] = as_bytes(given).reshape(*mask.shape, -1)
        picture[mask] = picture[mask] * (1 - _MARK_SHARE) + _MARK * _MARK_SHARE
        return picture.astype(np.uint8)

    def _pixels(self, image: int) -> npt.NDArray[Any]:
        if isinstance(self._images, list | tuple):
            return np.asarray(self._images[image])
        found: npt.NDArray[Any] = np.asarray(self._images[image : image + 1])[0]
        return found
