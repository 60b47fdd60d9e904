"""What messages advise, as people find it in pages: messages name commands, which are for the command line."""

from __future__ import annotations

import re

from markupsafe import Markup

__all__ = ["prose"]

_QUOTED = re.compile(r"`([^`]+)`")
_CLICKS = {
    "ropewalk cloud-account set aws": "Change the key or settings",
    "ropewalk cloud-account set kubernetes --kubeconfig FILE": "Change the kubeconfig or settings",
    "ropewalk cloud-account check": "Check again",
    "ropewalk cloud-account prepare": "Prepare",
    "ropewalk env credentials set": "Credentials of package indexes",
}
"""What to click in place of a command: labels of links and buttons."""


def prose(text: str) -> Markup:
    """Return a sentence whose commands and names, between backticks as everywhere in messages, look like code.

    Of commands that a page has a button for, the button is named.
    """
    pieces = _QUOTED.split(text)
    return Markup("").join(_quoted(piece) if number % 2 else piece for number, piece in enumerate(pieces))


def _quoted(part: str) -> Markup:
    click = _CLICKS.get(part)
    return Markup("<code>{}</code>").format(part) if click is None else Markup("<strong>{}</strong>").format(click)
