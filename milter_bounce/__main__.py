"""``python -m milter_bounce``: the same as the command ``milter-bounce``."""

from milter_bounce.cli import main

main()
