"""Members of etcd in the world: their processes, the doors between them, their membership and their files."""
