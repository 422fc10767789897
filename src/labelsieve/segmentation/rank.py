"""Scores of images and pixels."""
