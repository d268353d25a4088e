"""The node loop: this machine brought to what the zone told it, and kept there.

``converge`` decides, from orders, what runs and the time; it asks nobody where anything should run.  ``node/io/loop``
reads the orders, carries the actions out and reports.
"""
