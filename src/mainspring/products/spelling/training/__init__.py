"""Making what the speller ships: lexicons, the error channel, the ranker."""
