"""The shell of control APIs: conversations over HTTP/1.1, and the name server's own API."""
