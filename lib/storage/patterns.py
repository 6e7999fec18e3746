"""Which URLs a credential is for: globs, ours and Salad's.

``**`` stands for anything, ``*`` for anything without ``/``. Ours: ``?`` is one character but ``/``, and a ``*`` at the
end is ``**``. Salad's: ``?`` is any character, and ``*`` is ``*`` at the end too.
"""

import re
from collections import defaultdict

MAX_PATTERN_CHARS = 2048
MAX_URL_CHARS = 8192

_SIGN = re.compile(r"\*\*|.", re.DOTALL)


def matches(pattern: str, url: str, *, salad: bool = False) -> bool:
    """Match a glob in time that only grows with both lengths: a pattern is a stranger's, too.

    The bits of ``at`` are the places in ``url`` that the pattern read so far may end at.
    """
    if len(pattern) > MAX_PATTERN_CHARS or len(url) > MAX_URL_CHARS:
        return False
    if pattern.endswith("*") and not salad:
        pattern += "*"
    where: defaultdict[str, int] = defaultdict(int)
    for place, letter in enumerate(url):
        where[letter] |= 1 << place
    everywhere = (1 << len(url)) - 1
    inside, at = everywhere & ~where["/"], 1
    for sign in _SIGN.findall(pattern):
        if sign == "**":
            at = -(at & -at) & (everywhere << 1 | 1)
        elif sign == "*":
            at |= ((at & inside) + inside) ^ inside
        elif sign == "?":
            at = (at & (everywhere if salad else inside)) << 1
        else:
            at = (at & where[sign]) << 1
        if not at:
            return False
    return bool(at >> len(url) & 1)
