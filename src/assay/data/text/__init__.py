"""Text: fonts, word lists and pictures of words."""
