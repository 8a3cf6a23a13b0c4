"""Room of readers: outside bytes become evidence. Raises nothing on any input; notes defects."""
