"""verify_hub over the zone's configuration: the service itself, and what every other service believes it by."""
