"""Chat templates: what they are like, where answers begin and end in them, and how they become tokens. Never torch."""
