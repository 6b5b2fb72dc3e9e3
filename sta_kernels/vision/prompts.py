"""Names of the classes of each task, and the sentences that they are put into.

open_clip's own for ImageNet; for the others short forms of ours, of the kind that CLIP's authors recommend: what the
pictures are of, and of what kind. A file can take the place of either.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sta_kernels.errors import InputError

Template = str | Callable[[str], str]

PICTURE = ("a photo of a {}.", "a photo of the {}.")
CAR = ("a photo of a {}, a type of car.", "a photo of the {}, a type of car.")
DIGIT = ('a photo of the number: "{}".', 'a picture of the digit "{}".')
HOUSE_NUMBER = ('a photo of the number: "{}".', 'a street view of the house number "{}".')
SIGN = ('a photo of a "{}" traffic sign.', 'a close-up photo of a "{}" traffic sign.')
TEXTURE = ("a photo of a {} texture.", "a photo of a {} pattern.", "a photo of a {} thing.")
SATELLITE = ("a satellite photo of {}.", "a centered satellite photo of {}.", "an aerial photo of {}.")
SCENE = ("a photo of a {}.", "a photo of the {}, a type of place.")

DIGITS = tuple("0123456789")
SIGNS = (
    *(f"{limit} km/h speed limit" for limit in (20, 30, 50, 60, 70, 80)),
    "end of 80 km/h speed limit",
    "100 km/h speed limit",
    "120 km/h speed limit",
    "no overtaking",
    "no overtaking by trucks",
    "priority at the next intersection",
    "priority road",
    "give way",
    "stop",
    "no vehicles",
    "no trucks",
    "no entry",
    "general danger",
    "dangerous curve to the left",
    "dangerous curve to the right",
    "double curve",
    "bumpy road",
    "slippery road",
    "road narrows on the right",
    "road works",
    "traffic lights ahead",
    "pedestrians",
    "children crossing",
    "bicycles crossing",
    "ice or snow",
    "wild animals crossing",
    "end of all restrictions",
    "turn right ahead",
    "turn left ahead",
    "go straight ahead",
    "go straight or right",
    "go straight or left",
    "keep right",
    "keep left",
    "roundabout",
    "end of no overtaking",
    "end of no overtaking by trucks",
)
"""GTSRB numbers its 43 classes; these are what the signs mean."""
LAND = {
    "AnnualCrop": "annual crop land",
    "Forest": "forest",
    "HerbaceousVegetation": "brushland or shrubland",
    "Highway": "a highway or a road",
    "Industrial": "industrial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings",
    "River": "a river",
    "SeaLake": "a sea or a lake",
}
"""EuroSAT's folders."""


@dataclass(frozen=True)
class Prompts:
    """What a zero-shot head is made of.

    Attributes:
        classes: one name per label, in the labels' order.
        templates: sentences with ``{}`` where the name goes, or functions of the name.
    """

    classes: Sequence[str]
    templates: Sequence[Template]

    def replaced(self, file: Path | None) -> Prompts:
        """With the names and templates of a JSON file ``{"classes": […], "templates": […]}``, of which one may lack.

        Raises:
            InputError: the file cannot be read, has other keys, another number of classes, or a template without
                ``{}``.
        """
        if file is None:
            return self
        try:
            given = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{file}: cannot be read: {error}") from None
        if not isinstance(given, dict) or not given or given.keys() - {"classes", "templates"}:
            raise InputError(f'{file}: expected {{"classes": […], "templates": […]}}, or one of them')
        for key, value in given.items():
            if not isinstance(value, list) or not value or not all(isinstance(text, str) for text in value):
                raise InputError(f"{file}: {key}: expected a list of texts")
        classes, templates = given.get("classes", self.classes), given.get("templates", self.templates)
        if len(classes) != len(self.classes):
            raise InputError(f"{file}: {len(classes)} classes, and the data has {len(self.classes)}")
        for text in given.get("templates", ()):
            if "{}" not in text or not _is_format(text):
                raise InputError(f"{file}: the template {text!r}: expected one {{}}, where the name of the class goes")
        return Prompts(classes, templates)


def _is_format(text: str) -> bool:
    try:
        text.format("")
    except (KeyError, IndexError, ValueError):
        return False
    return True


def spoken(name: str) -> str:
    """A folder's name as words."""
    return " ".join(name.replace("_", " ").replace("/", " ").split())
