"""For clients that should not talk to workers: requests are taken here, and done by workers.

``entrance`` takes them, ``forwarding`` finds workers, ``passing`` passes answers on; ``calling`` speaks to workers and
``watching`` sees them die; ``outputs`` follows links. ``jobs`` keeps what nobody waits for (durable).
"""
