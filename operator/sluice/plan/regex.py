"""Regular expressions that people write: RE2's, which no key or value can hang, as backtracking ones can be hung."""

from __future__ import annotations

from collections.abc import Callable


def finder(expression: str) -> Callable[[bytes], bool]:
    """A test for whether ``expression`` is found in bytes, read as UTF-8.

    Raises:
        ValueError: it isn't one, or too large when its repetitions are written out; says what is wrong with it.
    """
    import re2  # here, since few replays need it

    options = re2.Options()
    options.log_errors = False
    try:
        search = re2.compile(expression, options).search
    except re2.error as error:
        reason = error.args[0]
        raise ValueError(reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)) from None
    return lambda text: search(text) is not None
