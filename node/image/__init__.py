"""Images of containers: strangers' bytes that become a folder which a container sees as its root.

    an archive or a folder -> documents (``oci``) -> layers (``tar``) -> steps on a folder (``layers``)

Everything here is pure.  ``node/io/image/store.py`` opens files, checks digests and carries the steps out.
"""
