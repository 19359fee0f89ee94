"""Programs that run Mainspring and its peers in turn on the same work; their JSON makes the docs' tables."""
