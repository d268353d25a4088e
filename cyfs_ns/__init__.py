"""Floor 1: names.  DNS messages, hosts, cache and resolvers; later DIDs, documents and trust."""
