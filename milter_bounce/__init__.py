r"""milter-bounce: an adviser on bounces beside Postfix and Sendmail.

The flow in ten lines::

    report by mail -> system.milterd -> parse.report      \
    line in a log  -> system.logd    -> parse.postfix_log  > DeliveryStatus
    status filter  -> system.answerd -> protocol.socketmap/
                                  |
                pipeline.judge:   v
        decide.ruleset   DeliveryStatus -> Classification   (rules/*.toml say why)
        decide.advise    + History, now -> Advice           (when to try again)
                                  |
        system: the log line, the store, the header; answerd answers the MTA from the store

The import rule, kept by tests/test_layers.py::

    limits, delivery <- verdict <- {parse, decide, protocol} <- pipeline <- system <- cli

The three pure rooms never import each other, and only ``system`` and ``cli``
touch the operating system (sockets, clock, files, logs, threads). ``limits``
holds every limit that protects us, and every room may look into it.
"""

__version__ = "0.1.0"
