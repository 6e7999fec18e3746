"""For clients that should not talk to workers: requests are taken here, and done by workers.

``calling`` speaks to workers, ``forwarding`` answers who waits, ``jobs`` keeps what nobody waits for (durable).
"""
