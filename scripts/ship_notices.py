"""Which weights may be passed on, and the notices that must go with them.

That follows from the licence of the data, which with its reference is what dataset.json states.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill

WIDTH = 90


@dataclass(frozen=True)
class Licence:
    """A licence under which weights may be passed on; begins: how data sets begin to name it."""

    name: str
    begins: tuple[str, ...]
    link: str


# In the order in which the first that occurs is that of all weights: they share a trunk.
LICENCES = (
    Licence(
        "CC-BY-SA-4.0",
        ("CC-BY-SA 4.0", "CC BY-SA 4.0", "CC-BY-SA-4.0"),
        "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
    ),
    Licence("MIT", ("MIT",), "https://opensource.org/license/mit"),
    Licence(
        "CC0-1.0", ("CC0-1.0", "CC0 1.0"), "https://creativecommons.org/publicdomain/zero/1.0/"
    ),
)
# What a reference holds -> who holds the rights of data under MIT, and what is to be cited.
COPYRIGHT = {"OpenKBP": "Copyright (c) 2021 Aaron Babier"}
CITATIONS = {
    "Medical Segmentation Decathlon": (
        "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 2022;"
        " Simpson et al., arXiv 1902.09063"
    ),
    "OpenKBP": "Babier et al., OpenKBP, Medical Physics 2021",
}
# The name of a data set -> what its images are, for the first sentence of the card.
IMAGES = {
    "Hippocampus": "brain MR cropped round one hippocampus, no whole heads",
    "HeadNeckCT": (
        "planning CTs of head and neck, cropped to the body, from radiotherapy; computed at their"
        " voxels of about 4×4×2.5 mm, so that edges are coarse on a finer scan"
    ),
}

TURNED = "; headers turned to "  # in the release of a data set

MIT = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""


def licence_of(domain: str, facts: Mapping[str, str]) -> Licence:
    """The licence of a data set; ends the program where weights of it may not be passed on."""
    said = facts.get("licence", "")
    for licence in LICENCES:
        if said.startswith(licence.begins):
            if licence.name == "MIT" and _found(COPYRIGHT, facts) is None:
                sys.exit(f"error: {domain}: whose copyright? — add it in scripts/ship_notices.py")
            return licence
    known = ", ".join(licence.name for licence in LICENCES)
    sys.exit(
        f"error: {domain}: its dataset.json says of the licence '{said or 'nothing'}', which does"
        f" not allow weights to be passed on — leave it out; those that do are {known}"
    )


def notice(trained_on: tuple[str, ...], facts: Mapping[str, Mapping[str, str]]) -> str:
    """The text beside the weights; facts: of every domain's data set, by domain."""
    licences = {name: licence_of(name, said) for name, said in facts.items()}
    whole = next(licence for licence in LICENCES if licence in licences.values())
    parts = [
        "Weights that come with u2net3d",
        "==============================",
        "",
        fill(
            "They were learnt, by scripts/ship-weights, from the data sets named below, of which no"
            " image or label is in this folder. The licence of u2net3d (Apache-2.0) is that of its"
            f" code. The weights, trunk and banks, are shared under {whole.name} ({whole.link}):"
            " they share a trunk, so the strictest of the licences of the data is that of all.",
            WIDTH,
        ),
        "",
        f"trunk.safetensors was trained on: {', '.join(trained_on)}.",
    ]
    for name, said in facts.items():
        parts += ["", *_entry(name, said, licences[name])]
    return "\n".join(parts) + "\n"


def _entry(name: str, said: Mapping[str, str], licence: Licence) -> list[str]:
    cited = _found(CITATIONS, said)
    _, turned, axes = said.get("release", "").rpartition(TURNED)
    mended = f"headers turned to {axes}; " if turned else ""
    lines = [
        f"domains/{name}.safetensors",
        f"  data set:  {said.get('name', 'not named')}",
        f"  reference: {said.get('reference', 'not named')}",
        *([f"  to cite:   {cited}"] if cited else []),
        f"  licence:   {said['licence']}",
        f"             {licence.link}",
        f"  changes:   {mended}a network was trained on its images and labels",
    ]
    if licence.name == "MIT":
        lines += ["", f"{_found(COPYRIGHT, said)}", "", *MIT.splitlines()]
    return lines


def _found(table: Mapping[str, str], said: Mapping[str, str]) -> str | None:
    reference = said.get("reference", "")
    return next((text for key, text in table.items() if key in reference), None)
