"""Room of choices: status to classification to advice to answer. No clock, no I/O."""
