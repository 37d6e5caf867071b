"""kv: a map of text to bytes that every node holds a copy of."""
