"""Steps that need not be taken: prompts that begin alike, and drafts that are checked many tokens at once."""
