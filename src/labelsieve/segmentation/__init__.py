"""Find wrong labels of pixels: masks for semantic segmentation, out of core.

A pixel is a row, and an image is a group of rows. `find_label_issues` takes masks and the probabilities of their pixels
in all forms that `labelsieve.find_label_issues` takes, and returns the issues by image.

>>> import numpy as np
>>> from labelsieve import segmentation
>>> labels = np.array([[[0, 0], [1, 1]], [[0, 0], [0, 1]]])  # (N, H, W)
>>> p = np.where(labels == 1, 0.9, 0.2)
>>> p[1, 0, 0] = 0.95
>>> found = segmentation.find_label_issues(labels, np.stack([1 - p, p], axis=1), progress=False)
>>> found
<SegmentationIssues: 1 of 8 pixels (12.50%) in 1 of 2 images>
>>> found.worst_images().tolist()
[1, 0]
"""

from labelsieve.segmentation import rank, summary
from labelsieve.segmentation.find import find_label_issues, plan_label_issues
from labelsieve.segmentation.issues import SegmentationIssues

__all__ = ["SegmentationIssues", "find_label_issues", "plan_label_issues", "rank", "summary"]
