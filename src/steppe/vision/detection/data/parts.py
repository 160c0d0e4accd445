"""What the parts of a dataset must hold, so that they can be learned and measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.vision.detection.data.base import Scene
from steppe.vision.detection.data.scenes import Scenes
from steppe.vision.detection.targets import CROWD


def every_class_is_there(classes: Sequence[str], train: Scenes, name: str) -> None:
    """Refuse a class that no training object has, or only crowds: it cannot be learned.

    Args:
        classes: names in label order.
        train: images to train on.
        name: of the dataset.

    Raises:
        SteppeError: there is one.
    """
    seen = set(train.objects[train.objects[:, 5] != CROWD, 4].tolist())
    empty = [kind for label, kind in enumerate(classes) if label not in seen]
    if empty:
        raise SteppeError(
            "every class must have a training object",
            got=f"none of {', '.join(empty[:5])} in {counted(len(train), 'training image')} of "
            f"{name}",
            consequence="it cannot be learned",
            way_out="--set data.classes=[...] without it, or more training images",
        )


def first_to_find(part: Sequence[Scene]) -> int | None:
    """The number, from 1, of the first image with an object that counts; None without one.

    Args:
        part: the images.
    """
    numbered = enumerate(part, 1)
    return next((n for n, scene in numbered if bool((scene.objects[:, 5] == 0).any())), None)


def something_to_find(part: Sequence[Scene], which: str, name: str, way_out: str) -> None:
    """Refuse images that are measured and hold no object that counts.

    Args:
        part: the images.
        which: train, validation or test.
        name: of the dataset.
        way_out: how there are other images, or more of them.

    Raises:
        SteppeError: none of their objects counts.
    """
    if first_to_find(part) is not None:
        return
    count = sum(len(scene.objects) for scene in part)
    others = counted(count, "difficult object or crowd", "difficult objects or crowds")
    raise SteppeError(
        "images that are measured hold an object that counts",
        got=f"{others if count else 'no object'} in "
        f"{counted(len(part), f'{which} image')} of {name}",
        consequence="there is no mean precision of them",
        way_out=way_out,
    )


def more_often(where: Sequence[str]) -> list[str]:
    """A sentence on images that a split for training names more often than once; none without.

    Args:
        where: of its images.
    """
    twice = _twice(where)
    if not twice:
        return []
    several = counted(len(twice), "image is", "images are")
    return [f"{several} trained on more than once in an epoch, such as {twice[0]}"]


def no_image_twice(where: Sequence[str], use: str) -> None:
    """Refuse a split for measuring that names an image twice.

    Args:
        where: of its images, and of those that it is held out of.
        use: what the split is for, for the message.

    Raises:
        SteppeError: it does.
    """
    twice = _twice(where)
    if twice:
        raise SteppeError(
            f"an image is {use} once",
            got=f"{counted(len(twice), 'image')} that the split names twice, such as {twice[0]}",
            consequence="its objects would count twice",
            way_out="take the second one out of the split, with all objects at the first",
        )


def _twice(where: Sequence[str]) -> list[str]:
    return [own for own, count in Counter(where).items() if count > 1]


def none_in_both(trained: Sequence[str], tested: Sequence[str]) -> None:
    """Refuse images that are trained and tested on; VOC's trainval holds its val.

    Args:
        trained: where those are that are trained on or held out of them.
        tested: where those are that are tested on.

    Raises:
        SteppeError: one is in both.
    """
    learned = set(trained)
    both = [where for where in tested if where in learned]
    if both:
        raise SteppeError(
            "no image is trained on and tested on",
            got=f"{len(both)} of {len(tested)} test images, such as {both[0]}",
            consequence="precisions would be those of images that were learned",
            way_out="splits without common images, such as --set data.train_split=train "
            "--set data.test_split=val",
        )
