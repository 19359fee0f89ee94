"""Programs for those who work on Mainspring itself."""
