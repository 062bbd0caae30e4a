"""Enumerated options of synthetic data sets. Imports nothing heavy, as the command line loads it."""

from enum import StrEnum


class Mix(StrEnum):
    """How often each action occurs."""

    REAL = "real"  # as in the real data set, including co-occurrence
    BALANCED = "balanced"  # all equally often


class Crop(StrEnum):
    """Region that a video shows."""

    NONE = "none"  # the camera's whole view
    PERSON = "person"  # the square around the person over the whole video
    HEAD = "head"  # the square around the head over the whole video


class Subset(StrEnum):
    """Subset of the data set; subsets share neither people nor bodies."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class Storage(StrEnum):
    """Format in which frames are stored."""

    MP4 = "mp4"
    NPZ = "npz"
    NONE = "none"  # no frames, only sidecars with keypoints: much faster


class Device(StrEnum):
    """Device that renders."""

    CPU = "cpu"
    CUDA = "cuda"
