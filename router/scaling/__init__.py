"""How many workers there should be, and having them started and released. Start at ``desire`` (pure), ``plan`` (pure),
then ``control``; ``part`` puts it into the process."""
