"""kRPC: calls of the zone's services, as values and rules; ``zone/io/krpc`` carries them out.

A service is a callable (``service.py``) that is told who calls (``caller.py``) and answers with JSON or a fault
(``faults.py``).
"""
