"""The members of etcd that keep a zone's state: who they are and what is to be done about them.  Nothing here acts.

* ``seats``: which machines are to have a member, and how it is called;
* ``launch``: how the program is started, and what its last words mean;
* ``membership``: from what the leader knows to the one next step;
* ``start``: what a machine does about its own member;
* ``talk``: what two machines tell each other about their members;
* ``care``: room, alarms, and when a member is defragmented.
"""
