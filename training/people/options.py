"""What a data set of synthetic people can be asked for, by name. Imports nothing: the command line reads it."""

from enum import StrEnum


class Mix(StrEnum):
    """How often each action occurs."""

    REAL = "real"  # as in the data set, also which occur together
    BALANCED = "balanced"  # all equally often


class Crop(StrEnum):
    """What a video shows."""

    NONE = "none"  # what the camera sees
    PERSON = "person"  # the square around the person over the whole video
    HEAD = "head"  # the square around the head over the whole video


class Subset(StrEnum):
    """Whom a video shows: nobody, and no body, is in two of them."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


class Storage(StrEnum):
    """How frames are kept."""

    MP4 = "mp4"
    NPZ = "npz"
    NONE = "none"  # joints alone: many more people in the same time, for what learns from joints


class Device(StrEnum):
    """What renders."""

    CPU = "cpu"
    CUDA = "cuda"
