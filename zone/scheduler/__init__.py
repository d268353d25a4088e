"""What runs where in a zone: decided by one pure function, from a frozen snapshot to a plan.

``service`` is what the owner wrote (one page a service), ``snapshot`` what the store said at one revision, ``schedule``
decides, ``plan`` is what comes out: one commit, and why.  ``replay`` keeps what was read, so that any decision can be
made again, byte for byte.  Nobody else writes where a service runs; nodes converge to their ``nodes/<n>/config/**``.

The rules, each of which a test holds:

* **One item a service and node.**  An item is what a node is to run.  It is placed, replaced by another version where
  it stands, or told to stop; it goes only when the node has said, about this very item (``epoch``), that nothing of
  it runs any more, or when the node has left the zone.  Until then it keeps its room.
* **What runs stays.**  A better place is no reason to move.  Within one round room is only taken, never given back, so
  a plan that was carried out and is made again is empty.
* **A volume pins.**  A service with volumes runs where its volumes are and nowhere else, lost node or not: the other
  writer may be alive behind a broken line.  Only the owner moves a pin, forgets it, or lets the node leave; a page
  that goes and comes back finds its volumes.
* **One failure is one failure.**  What cannot be placed, or read, stops nobody else, and says why for every node.

Absent on purpose: preemption and rebalancing (both move what runs), several items of a service on one node, moving
volumes, and guessing: a page that cannot be read leaves its service as it is.
"""
