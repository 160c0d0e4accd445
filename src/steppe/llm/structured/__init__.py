"""Units of language models that are really gone: chosen, cut out, checked."""
