"""Judging a model on any COCO data set."""
