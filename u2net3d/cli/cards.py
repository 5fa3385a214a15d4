"""The verb `card`."""

from __future__ import annotations

import sys
from pathlib import Path

from u2net3d import files
from u2net3d.cli.places import to_read
from u2net3d.cli.say import say
from u2net3d.errors import UsageError
from u2net3d.evaluate.card import domain_card, model_card
from u2net3d.evaluate.card_text import dice_picture, domain_text, model_text
from u2net3d.spec import domain_name

WHOLE = "model-card"  # no domain is called so: it has a hyphen


def card(domain: str | None, model: Path | None, output: Path | None) -> None:
    """Prints the card of a domain or of the model, or writes cards with pictures into a folder."""
    name = domain_name(domain) if domain is not None else None
    folder = to_read(model)
    if output is None:
        text = domain_text(domain_card(folder, name)) if name else model_text(model_card(folder))
        sys.stdout.write(text)
        return
    if output.is_file():
        raise UsageError("-o", f"{output} is a file, not a folder", "name a folder")
    files.require_writable(output, "-o")
    written = write_cards(folder, output, name)
    say(f"{output}: {', '.join(path.name for path in written)}")


def write_cards(folder: Path, output: Path, name: str | None = None) -> list[Path]:
    """Writes the cards of a domain, or of all and of the model: Markdown, JSON, picture.

    What was written. Raises as `domain_card` does.
    """
    known = model_card(folder) if name is None else None
    cards = known.domains if known else {str(name): domain_card(folder, str(name))}
    written = {}
    for domain, each in cards.items():
        picture = dice_picture(each)
        shown = f"{domain}.png" if picture is not None else None
        written[f"{domain}.md"] = domain_text(each, shown).encode()
        written[f"{domain}.json"] = each.model_dump_json(indent=2).encode() + b"\n"
        if picture is not None:
            written[f"{domain}.png"] = picture
    if known:
        written[f"{WHOLE}.md"] = model_text(known, links=True).encode()
        written[f"{WHOLE}.json"] = known.model_dump_json(indent=2).encode() + b"\n"
    for file, content in written.items():
        files.write_bytes(output / file, content)
    return [output / file for file in written]
