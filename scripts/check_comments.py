#!/usr/bin/env python3
"""Checks how doc comments of the Rust sources begin.

The first line of a doc comment says what the item is: a noun phrase, or a verb in the third person.
Comments that open with What, Where, How, Which, Those or The same make a reader guess. Prints their
share and fails above 1 %.

    scripts/check_comments.py [--list] [FOLDER]
"""

import pathlib
import re
import sys

OPENERS = re.compile(r"(What|Where|How|Which|Those|The same)\b")
DOC_LINE = re.compile(r"\s*//[/!](?!/) ?(.*)")
MOST = 0.01


def first_lines(path):
    """First line of each block of doc comments, with its number."""
    inside = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        doc = DOC_LINE.match(line)
        if doc and not inside:
            yield number, doc.group(1)
        inside = doc is not None


def main(arguments):
    folders = [one for one in arguments if not one.startswith("--")]
    root = pathlib.Path(folders[0] if folders else pathlib.Path(__file__).parent.parent)
    sources = [*root.glob("meptr-*/**/*.rs"), *root.glob("tests/**/*.rs")]
    found, total = [], 0
    for path in sorted(one for one in sources if "target" not in one.parts):
        for number, text in first_lines(path):
            total += 1
            if OPENERS.match(text):
                found.append(f"{path.relative_to(root)}:{number}: {text}")
    if not total:
        sys.exit("check_comments: no doc comment below " + str(root))
    share = len(found) / total
    if "--list" in arguments or share > MOST:
        print("\n".join(found))
    print(f"{len(found)} of {total} doc comments ({share:.1%}) open with a word that says nothing")
    return share > MOST


sys.exit(main(sys.argv[1:]))
