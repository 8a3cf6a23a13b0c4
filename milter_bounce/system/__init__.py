"""The only room with hands: sockets, clock, files, logs, threads, stores, resolver, the programs."""
