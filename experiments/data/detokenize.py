"""Running text from the tagged words of the Brown corpus."""

from __future__ import annotations

_MARKS = frozenset(".,;:?!")
_NEVER_FIRST = _MARKS | {"''", ")", "]", "--"}
"""What continues the paragraph before, even after a headline or a blank line."""


def detokenize(tagged: str) -> str:
    """Return the running text of a file of the Brown corpus.

    Each line of a file is a sentence of ``word/tag``; a paragraph begins at a tab, after a blank
    line, and around a headline (whose tags all end in ``-hl``). Words are joined as in print: no
    space before closing and after opening marks, straight quotation marks, doubled marks once, and
    the marks . , ? ! inside of the closing quotation mark that they follow in the corpus.

    Args:
      tagged: the content of the file.

    Returns:
      Paragraphs, separated by blank lines, with one space between sentences.
    """
    paragraphs: list[list[str]] = []
    is_new = True
    for line in tagged.splitlines():
        pairs = [word.rpartition("/")[::2] for word in line.split()]
        if not pairs:
            is_new = True
            continue
        is_headline = pairs[0][1].endswith("-hl") and all(
            tag.endswith("-hl") or not word[0].isalnum() for word, tag in pairs
        )
        if not paragraphs or (
            line.startswith("\t") or ((is_new or is_headline) and pairs[0][0] not in _NEVER_FIRST)
        ):
            paragraphs.append([])
        paragraphs[-1] += [word for word, _ in pairs]
        is_new = is_headline
    return "\n\n".join(_join(words) for words in paragraphs)


def _join(words: list[str]) -> str:
    """Join the words and marks of a paragraph."""
    text, previous, quotes = "", "", ""  # quotes: the closing quotation marks at the end of text
    glue, is_quoted = True, False  # whether no space follows, and whether a single quote is open
    for word in words:
        if word == previous and word in _MARKS:
            continue
        previous = word
        is_single = word == "'"
        is_closing = word in ("''", ")", "]") or (is_single and is_quoted)
        is_opening = word in ("``", "(", "[") or (is_single and not is_quoted)
        is_quoted ^= is_single
        written = word.replace("``", '"').replace("''", '"')  # also inches, as in 1/4''
        if word in (".", ",", "?", "!"):
            stem = text[: len(text) - len(quotes)]
            text = stem + ("" if word == "." and stem.endswith(".") else word) + quotes
        elif word in _MARKS or is_closing or glue:
            text += written
        else:
            text += " " + written
        is_quote = is_closing and written in ("'", '"')
        quotes = quotes + written if is_quote else ""
        glue = is_opening
    return text
