"""kRPC: calls of the zone's services, as values and rules; ``zone/io/krpc`` carries them out.

A service is a callable (``service.py``) that is told who calls (``caller.py``) and answers with JSON or a fault
(``faults.py``); most are made from an interface, a class with types (``interface.py``).  ``wire.py`` says how a call
stands in HTTP, ``batch.py`` how many stand in one request and use each other's results, and ``promise.py`` how such a
request is written down in Python.
"""
