"""routes: one file a group of addresses; each makes a router of a `Service`."""
