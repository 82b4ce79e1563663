"""One reader per public format; each takes (task, path, counts), adds to the counts and returns examples."""
