"""Numbers of names from which the network goes other ways to the same or nearly the same answer."""

MANY = 2048
"""Names up to which the selection holds the logits of all tokens: 32 MB at 4,000 tokens. Up to here
nothing is left out either."""
KEPT = 1024
"""Names of more than :data:`MANY` that go on to the decoder."""
LIKELIEST = 512
"""Tokens that say which names are supported: five times the queries of the phone sizes."""
