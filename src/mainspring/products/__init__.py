"""What people use: a product composes evaluated models behind a typed API and imports no other product."""
