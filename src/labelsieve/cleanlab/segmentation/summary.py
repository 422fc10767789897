"""`cleanlab.segmentation.summary`: the functions of `labelsieve.segmentation.summary`."""

from __future__ import annotations

from labelsieve.segmentation.summary import _generate_colormap, common_label_issues, display_issues, filter_by_class

__all__ = ["_generate_colormap", "common_label_issues", "display_issues", "filter_by_class"]
