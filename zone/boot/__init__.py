"""How a machine comes up in its zone: what is known of the zone, and the steps from an identity to "booted".

Everything here decides and touches nothing.  ``known`` is what the machine believes of its zone's document and what
another document is to it; ``settle`` is what the store needs before the zone can be said to be up; ``machine`` is the
order of steps, with who is waited for and why.  ``zone/io/boot/`` carries it out.
"""
