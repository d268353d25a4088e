"""The configuration file: YAML with places, sections as written, and the DNS server's part of it as meant."""
