"""What the page hands over when something is pressed: texts, and files that were uploaded to it. Nothing else reaches Gradio.

Gradio looks for files in all that it is given, in a field for text too, and would open any path and ask any address that stands
there, before a deed sees it.
"""

import json
from pathlib import Path
from typing import Any

from rareshot.web.intake import uploaded

KEPT = ("fn_index", "session_hash", "trigger_id")
"""What else of a call goes on: which deed, and whose."""


def checked(body: bytes, uploads: Path) -> bytes:
    """The call, written anew with nothing in it but what a deed may be given.

    Args:
        uploads: the folder that uploads lie in; resolved.

    Raises:
        ValueError: if it is no call of the page, or holds anything but texts and files that were uploaded.
    """
    try:
        call = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("This is no call of the page.") from error
    if not isinstance(call, dict) or not isinstance(call.get("data"), list):
        raise ValueError("This is no call of the page.")
    data = [_checked(value, uploads) for value in call["data"]]
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
