"""References to rows: photos read, checked and hashed in batches, then judged together."""
