"""What one session of the page may hold, and what the page says of more."""

from rareshot.data.files import shown

MOST_CONDITIONS = 20
MOST_OF_A_CONDITION = 50
"""Photographs of one condition."""
MOST_SUPPORT = 200
"""Photographs of all conditions; the command line takes 1,000."""
MOST_NEW = 50
"""New images at a time."""
MOST_BYTES = 20 * 2**20
"""Of one file."""
MOST_BYTES_AT_ONCE = 512 * 2**20
"""Of all files that are dropped in one go."""
MOST_FILES_AT_ONCE = 250
MOST_BYTES_OF_A_CALL = 4 * 2**20
"""Of what the page hands over at a press: texts, and where uploads lie."""
LONGEST_NAME = 60
"""Characters of a condition's name."""
MOST_SESSIONS = 50
MOST_WAITING = 60
"""Events in the queue."""
IDLE_S = 3600.0
"""A session that nobody has touched for so long is deleted."""
UNCLAIMED_S = 600.0
"""An uploaded file that no session has taken is deleted after so long."""


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 2**20:.0f} MB"


def refuse_name(number: int, name: str) -> None:
    """Refuse what cannot stand as a condition's name on the page, in the classifier and in a table.

    Args:
        number: of the condition on the page, from 1.

    Raises:
        ValueError: if the name is too long or holds characters that are no text.
    """
    if len(name) > LONGEST_NAME:
        raise ValueError(
            f"The name of condition {number} has {len(name)} characters; at most {LONGEST_NAME} are taken: shorten it."
        )
    if not name.isprintable():
        raise ValueError(
            f"The name of condition {number}, {shown(name)}, holds characters that are no text: write it anew."
        )


def no_room(name: str, room: str, most: int) -> str:
    """Why a file was not taken: `room` is full."""
    return f"{name}: not taken, since {room} holds at most {most}; remove some, or choose the clearest ones"
