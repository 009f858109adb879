"""The user's script: what we promise it, what it promises us."""
