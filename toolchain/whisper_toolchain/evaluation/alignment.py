"""Which word became which: a reference and a transcript side by side."""

from dataclasses import dataclass

import jiwer


@dataclass(frozen=True)
class AlignedWord:
    """One place of an alignment.

    Attributes:
        kind: "equal", "substitute", "delete" or "insert".
        said: the reference's word; "" for an insertion.
        heard: the transcript's word; "" for a deletion.
    """

    kind: str
    said: str
    heard: str


def align(reference: str, text: str) -> list[AlignedWord]:
    """Align two normalised texts word by word, with as few errors as can be, as the word error rate counts them."""
    if not reference.split():
        return [AlignedWord("insert", "", word) for word in text.split()]
    output = jiwer.process_words(reference, text)
    said, heard = output.references[0], output.hypotheses[0]
    words = []
    for chunk in output.alignments[0]:
        left = said[chunk.ref_start_idx : chunk.ref_end_idx]
        right = heard[chunk.hyp_start_idx : chunk.hyp_end_idx]
        for i in range(max(len(left), len(right))):
            words.append(AlignedWord(chunk.type, "".join(left[i : i + 1]), "".join(right[i : i + 1])))
    return words
