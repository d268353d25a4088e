"""Run items: how a node runs what it was told to.

``runner`` is the seam: an ``Order``, its ``Place`` on this machine, the ``Launch`` that comes of it, and the ``Kind``
that knows what differs between processes, scripts and containers.  Everything else is the same for all of them and is
done once, by one launcher: a ``keeper`` process for each run that outlives the daemon, keeps the log, knows how the
run ended, and leaves nothing of it over.
"""
