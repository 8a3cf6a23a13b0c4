"""What comes in from outside, as any bytes: targets, their seeds, what was found with them.

``python -m tests.fuzz`` (``make fuzz``) runs every target under atheris; the finds under ``finds/TARGET`` are replayed
without it by ``test_finds.py``.
"""
