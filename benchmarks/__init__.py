"""Programs that run Mainspring and its peers in turn on the same work; the docs' tables come from their JSON."""
