"""From the text of an answer to what it says, thinks and calls, as it comes. Pure: texts in, deltas out."""
