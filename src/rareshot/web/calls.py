"""What the page hands over when something is pressed: texts, and files that were uploaded to it. Nothing else reaches Gradio.

Gradio looks for files in all that it is given, in a field for text too, and would open any path and ask any address that stands
there, before a deed sees it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rareshot.web.intake import uploaded

KEPT = ("fn_index", "session_hash", "trigger_id")
"""What else of a call goes on: which deed, and whose."""


Fields = Mapping[int, Sequence[type]]
"""Number of a deed → what each of its fields holds: list for files, str for a text."""


def fields_of(page: Any) -> Fields:
    """Those of a page of Gradio's."""
    import gradio as gr

    return {
        number: [list if isinstance(one, gr.File) else str for one in deed.inputs] for number, deed in page.fns.items()
    }


def checked(body: bytes, uploads: Path, fields: Fields) -> bytes:
    """The call, written anew with nothing in it but what a deed may be given.

    Args:
        uploads: the folder that uploads lie in; resolved.
        fields: of every deed of the page.

    Raises:
        ValueError: if it is no call of the page, or holds anything but texts and files that were uploaded, or holds them
            elsewhere than in the fields for them.
    """
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("This is no call of the page.") from error
    if not isinstance(call, dict) or not isinstance(call.get("data"), list):
        raise ValueError("This is no call of the page.")
    data = [_checked(value, uploads) for value in call["data"]]
    deed = call.get("fn_index")
    asked = fields.get(deed) if isinstance(deed, int) else None
    if asked is None or len(asked) != len(data):
        raise ValueError("This is no call of the page.")
    data = [kind() if value is None else value for value, kind in zip(data, asked, strict=True)]
    if not all(isinstance(value, kind) for value, kind in zip(data, asked, strict=True)):
        raise ValueError("A field got what belongs into another: reload the page, and do it again.")
    kept = {key: call[key] for key in KEPT if isinstance(call.get(key), str | int)}
    return json.dumps({**kept, "data": data}).encode()


def _checked(value: Any, uploads: Path) -> Any:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise ValueError("The page hands over texts and uploaded files; this is neither.")
    return [
        {"path": one.file, "orig_name": one.name, "meta": {"_type": "gradio.FileData"}}
        for one in uploaded(value, uploads)
    ]
